"""Write and read the receipt, `qtoolkit.json`: a job begins it, and finishes it with the hashes of what it wrote."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtoolkit.checkpoints.filenames import RECEIPT_FILE
from qtoolkit.checkpoints.hub_names import is_commit_hash, is_hub_id
from qtoolkit.checkpoints.panics import panics_as_errors
from qtoolkit.checkpoints.remedy import lfs_problem
from qtoolkit.checkpoints.safetensors import DTYPES, StoredTensor, read_tensors
from qtoolkit.errors import CheckpointError, ConfigError, oneline, printable
from qtoolkit.files import read_json, sha256_of, write_whole
from qtoolkit.formats import FileFormat, format_of
from qtoolkit.methods import config_class
from qtoolkit.noted import Noted
from qtoolkit.publishing import behaviour
from qtoolkit.publishing.patterns import last_part, without_paths
from qtoolkit.publishing.receipt_values import refuse_odd_figures, refuse_odd_values
from qtoolkit.records import Behaviour, FileEntry, ModelSource, Probe, QuantizationReport, Receipt
from qtoolkit.texts.mixtures import read_mixture, write_mixture

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from qtoolkit.models.checkpoint import Checkpoint

# Real receipts take some kB; a longer one is cut off here, and then refused as no JSON.
_MAX_CHARACTERS = 10_000_000
_COMPARED = ("behaviour", "files")


def behaviour_of(checkpoint: "Checkpoint") -> Noted[Behaviour]:
    """Describe what the base's tokenizer and generation config do; a tokenizer that cannot be called is noted."""
    notes: tuple[str, ...] = ()
    try:
        with panics_as_errors():
            tokenizer = behaviour.describe_tokenizer(checkpoint.tokenizer)
    except Exception as error:  # noqa: BLE001  # anything may be given as tokenizer=
        notes = (f"its tokenizer could not be described, and no qt.verify compares it: {oneline(error)}",)
        tokenizer = behaviour.describe_tokenizer(None)
    generation = behaviour.describe_generation(checkpoint.generation_config)
    return Noted(Behaviour(**tokenizer, generation=generation), notes)


def begin_receipt(
    checkpoint: "Checkpoint",
    base: Behaviour,
    report: QuantizationReport,
    versions: Mapping[str, str],
    hardware: tuple[str, ...],
    probe: Probe | None,
) -> Receipt:
    """Return a receipt without the files, which `write_receipt` adds.

    Args:
        checkpoint: the base.
        base: its behaviour, measured before the work.
        report: what was done to it.
        versions: package -> version.
        hardware: one line a device.
        probe: logits of the result; None where they were not measured.
    """
    calibration = report.calibration
    if calibration is not None:
        calibration = replace(calibration, text=last_part(calibration.text), layers=())
        if calibration.perplexity is not None and not isfinite(calibration.perplexity):
            # JSON has no such number.
            calibration = replace(calibration, perplexity=None)
    files = config_class(report.method).files()
    settings = {
        name: _file_name(value) if name == "calibration" else last_part(value) if name in files and value else value
        for name, value in report.settings.items()
    }
    return Receipt(
        source=replace(report.source, name=_public_name(report.source), path=None),
        license=checkpoint.license,
        gated=checkpoint.gated,
        inherited=checkpoint.inherited,
        method=report.method,
        settings=settings,
        device=report.device,
        versions=versions,
        hardware=hardware,
        num_layers=len(report.layers),
        skipped=Counter(layer.skipped for layer in report.skipped),
        notes=tuple(map(without_paths, (*report.warnings, *report.notes))),
        memory=report.memory,
        calibration=calibration,
        behaviour=base,
        probe=probe,
        dtypes={},
        files={},
        source_check=checkpoint.checked,
        num_quantized=report.num_quantized,
    )


def _file_name(text: str) -> str:
    """Return what a calibration text is called, without folders of this machine; likewise of each text of a mixture."""
    shares = read_mixture(text)
    return (
        last_part(text) if shares == text else write_mixture((last_part(name), share) for name, share in shares.items())
    )


def measure_probe(model: "PreTrainedModel", tokenizer: Any) -> Probe:
    """Measure logits of a model on a few tokens, in one short forward pass.

    Raises:
        ValueError: logits are not finite.
    """
    vocab_size = model.config.get_text_config().vocab_size
    values = behaviour.probe(model, behaviour.probe_tokens(tokenizer, vocab_size))
    return Probe.from_dict({"record": "Probe", "schema_version": Probe.schema_version, **values})


def write_receipt(folder: Path, receipt: Receipt) -> Receipt:
    """Write `qtoolkit.json`, with the hashes of all files, into a folder where everything else is written.

    Returns:
        The receipt, with the files.

    Raises:
        OSError: it cannot be written, or somebody removed a file meanwhile.
    """
    names = sorted(file.name for file in folder.iterdir() if file.is_file() and file.name != RECEIPT_FILE)
    finished = replace(
        receipt,
        dtypes=_bytes_by_type(folder, names),
        files={name: FileEntry((folder / name).stat().st_size, sha256_of(folder / name)) for name in names},
    )
    text = json.dumps(finished.to_dict(), indent=1, ensure_ascii=False) + "\n"
    write_whole(folder / RECEIPT_FILE, text.encode())
    for name in names:
        (folder / name).stat()
    return finished


def read_receipt(folder: Path) -> Receipt | None:
    """Read the receipt of a folder; None where there is none.

    Raises:
        CheckpointError: there is one, and it is damaged or of another version.
    """
    file = folder / RECEIPT_FILE
    if not file.is_file():
        return None
    try:
        with file.open(encoding="utf-8") as stream:
            values = json.loads(stream.read(_MAX_CHARACTERS))
        refuse_odd_values(values)
        receipt = Receipt.from_dict(_plain(values))
        refuse_odd_figures(receipt)
    except (OSError, ValueError, OverflowError, RecursionError, ConfigError) as error:
        what = f"{RECEIPT_FILE} is no receipt ({oneline(error)}): restore it, or remove it"
        raise CheckpointError(lfs_problem(file).replace(f"{folder}/", "") or what) from error
    # Cards and names of folders in the cache have the commit in them, so that it must look like one.
    known = is_commit_hash(receipt.source.commit_hash)
    return receipt if known else replace(receipt, source=replace(receipt.source, commit_hash=None))


def _plain(values: Any) -> Any:
    """Return the values of a receipt, which anybody may have written, with each text on one line that can be printed.

    They reach cards, messages and terminals. Texts that are compared with a tokenizer's, and names that are compared
    with those of files, are not changed.
    """
    if isinstance(values, str):
        return printable(values)
    if isinstance(values, list):
        return list(map(_plain, values))
    if isinstance(values, dict):
        return {printable(key): value if key in _COMPARED else _plain(value) for key, value in values.items()}
    return values


def receipt_of(checkpoint: "Checkpoint") -> Noted[Receipt | None]:
    """Read the receipt beside the weights of a checkpoint; a damaged one is noted, and left out."""
    try:
        path = checkpoint.path
        return Noted(read_receipt(path if path.is_dir() else path.parent) if path else None)
    except CheckpointError as error:
        return Noted(None, (f"{error}: saved again, this model will have none",))


def _bytes_by_type(folder: Path, names: Iterable[str]) -> Mapping[str, int]:
    """Return the bytes of the tensors of each type in the weight files of a folder."""
    values = read_json(folder / "config.json").get("quantization_config") or {}
    format_ = format_of(values)
    if isinstance(format_, FileFormat):
        return format_.bytes_by_type(folder / format_.file_name(values))
    weights = (folder / name for name in names if name.endswith(".safetensors"))
    return bytes_by_dtype(tensor for file in weights for tensor in read_tensors(file).values())


def bytes_by_dtype(tensors: Iterable[StoredTensor]) -> dict[str, int]:
    """Sum the bytes of tensors by the safetensors name of their type, "BF16"."""
    names = {dtype: name for name, dtype in DTYPES.items()}
    sizes: Counter[str] = Counter()
    for tensor in tensors:
        sizes[names[tensor.dtype]] += tensor.nbytes
    return dict(sorted(sizes.items()))


def _public_name(source: ModelSource) -> str:
    """Return the name of the base without the folders of this machine."""
    on_hub = is_hub_id(source.name) and not Path(source.name).exists()
    return source.name if source.commit_hash or on_hub else last_part(source.name)
