"""Check that the files of a saved model are those that the job wrote, and agree with each other."""

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase

from qtoolkit.checkpoints import folder as folders
from qtoolkit.checkpoints.config_ages import disagreements, missing_keys
from qtoolkit.checkpoints.filenames import (
    INDEX_FILE,
    RECEIPT_FILE,
    SINGLE_FILE,
    TEMPLATE_FILE,
    TOKENIZER_CONFIG,
)
from qtoolkit.checkpoints.remedy import lfs_problem
from qtoolkit.errors import QToolkitError, oneline, printable
from qtoolkit.files import MAX_JSON_BYTES, read_json, sha256_of
from qtoolkit.formats import FileFormat
from qtoolkit.methods import config_of_checkpoint
from qtoolkit.models.foreign_codes import find_codes
from qtoolkit.publishing.artifact import Artifact
from qtoolkit.records import Check
from qtoolkit.units import format_bytes, format_items

# What may be added to a model after it was saved: its card with its picture, a licence, figures, git's own file.
_ADDED = (RECEIPT_FILE, "README.md", "frontier.svg", "LICENSE*", ".gitattributes", ".eval_results/*.yaml")
# Bytes that the header of a weight file takes for each tensor, which no plan counts.
_HEADER_BYTES = 200
# Bytes that an index takes for each tensor: its name, and its file's.
_INDEX_BYTES = 1_000
# What a memory footprint is to the bytes of the tensors in the files, at least and at most: kernels hold 2-bit codes in
# 4 bits, and share tables that the file holds for each layer. Buffers are in memory alone.
_LEAST_FOOTPRINT, _MOST_FOOTPRINT = 0.5, 2.5
_BUFFER_BYTES = 1_000_000
AGAIN = "save or download the model again"
# The check of a model that is one file.
FILE = "model file"
# What to do instead where the bytes are those that were written: another download brings the same.
ANEW = "make it anew: its files are as they were written"
# Options that the config of a checkpoint states by our names; others, such as exclude, it states otherwise.
_COMPARED_OPTIONS = (
    *("method", "format", "embeddings", "bits", "group_size", "sym", "desc_act", "checkpoint_format", "granularity"),
    *("double_quant", "compute_dtype", "threshold"),
)


def check_of(name: str, problems: Iterable[str], value: str, note: str = AGAIN) -> Check:
    """Return a check that passes where there are no problems.

    Args:
        name: what is checked.
        problems: what is wrong, a line each; the first three are shown.
        value: what is shown where nothing is wrong.
        note: what to do where something is wrong.
    """
    lines = list(problems)
    if not lines:
        return Check(name, True, printable(value))
    rest = f" and {len(lines) - 3} more" if len(lines) > 3 else ""
    return Check(name, False, "; ".join(printable(line[:200]) for line in lines[:3]) + rest, note)


def without_receipt(name: str) -> Check:
    """Return a check that is not made since it needs a receipt, and there is none."""
    return Check(name, None, "not known", f"without {RECEIPT_FILE} nothing tells what was written")


def _without_tensors(name: str, artifact: Artifact) -> Check:
    """Return a check that is not made since it needs all tensors, and a weight file is damaged."""
    files = FILE if isinstance(artifact.format, FileFormat) else "safetensors files"
    return Check(name, None, "a weight file is damaged", f"see the check of the {files}")


def check_regular(artifact: Artifact) -> Check | None:
    """Check that all entries are folders and regular files, and no file is a Git LFS pointer.

    A link out of the folder is shown where the receipt names the file, and fails otherwise: publishing it would publish
    a file of this machine that nobody named.

    Returns:
        None where there is nothing to show.
    """
    files = artifact.receipt.files if artifact.receipt else {}
    unnamed = [name for name in artifact.outside if name not in files]
    problems = [f"{printable(name)[-100:]} {what}" for name, what in artifact.odd.items()]
    pointers = (lfs_problem(artifact.path / name).replace(f"{artifact.path}/", "") for name in artifact.names)
    problems += [printable(problem) for problem in pointers if problem]
    if artifact.receipt is not None:
        problems += [f"{name} is a link out of the folder" for name in unnamed]
    if problems:
        return check_of("regular files", problems, "", "put the file itself in its place, or remove it")
    if not artifact.outside:
        return None
    shown = ", ".join(artifact.outside[:3]) + ("" if len(artifact.outside) <= 3 else ", ...")
    links = f"{len(artifact.outside)} files are links out of the folder: {shown}"
    return Check("regular files", None if unnamed else True, links, "a copy of the folder may lack them")


def check_receipt(artifact: Artifact) -> Check:
    """Check that there is a receipt that can be read."""
    if artifact.receipt is not None:
        version = artifact.receipt.versions.get("qtoolkit", "")
        return Check("receipt", True, f"{artifact.receipt.recipe}, by qtoolkit {version}")
    if artifact.receipt_error:
        return Check("receipt", False, artifact.receipt_error)
    return Check("receipt", None, f"no {RECEIPT_FILE}", "verified without a receipt: by what its files alone tell")


def check_hashes(artifact: Artifact) -> Check:
    """Check that every file of the receipt is there with the same bytes, and that no other file was added."""
    if artifact.receipt is None:
        return without_receipt("file hashes")
    files = artifact.receipt.files
    problems = []
    for name, entry in files.items():
        file = artifact.path / name
        if name not in artifact.names:
            problems.append(f"{name} is missing")
        elif file.stat().st_size != entry.size:
            problems.append(f"{name} has {file.stat().st_size} bytes instead of {entry.size}")
        elif sha256_of(file) != entry.sha256:
            problems.append(f"{name} has other content")
    others = [name for name in artifact.names if name not in files and name not in artifact.beside]
    added = [name for name in others if not any(fnmatchcase(name, pattern) for pattern in _ADDED)]
    added = [name for name in added if not _is_vouched_for(artifact, name)]
    remedy = AGAIN if problems else ""
    problems = [*(f"{name} was not written by the job: remove it" for name in added), *problems]
    size = sum(entry.size for entry in files.values())
    return check_of(
        "file hashes",
        problems,
        f"{format_items(len(files), 'file')} that {RECEIPT_FILE} lists, {format_bytes(size)}",
        remedy,
    )


def _is_vouched_for(artifact: Artifact, name: str) -> bool:
    """Check whether a file is as the receipt of another file of the same base tells, which stands beside this model.

    What the receipt "model-Q8_0.qtoolkit.json" calls "Modelfile" is "model-Q8_0.Modelfile" there.
    """
    own = artifact.receipt
    told = [
        receipt.files[called]
        for beside, receipt in artifact.beside.items()
        for called in (name, name.removeprefix(beside.removesuffix(RECEIPT_FILE)))
        if own is not None and called in receipt.files and receipt.source.name == own.source.name
    ]
    file = artifact.path / name
    return any(file.stat().st_size == one.size and sha256_of(file) == one.sha256 for one in told)


def check_file(artifact: Artifact) -> Check:
    """Check that a model that is one file is there, and that the header is sound and as long as the file."""
    name = str((artifact.quantization or {}).get("file"))
    problems = [] if artifact.weight_files else [f"config.json names {name} as its file, which is not in the folder"]
    held: Mapping[str, int] = {}
    try:
        held = artifact.bytes_by_type
    except QToolkitError as error:
        problems.append(oneline(error).replace(f"{artifact.path}/", ""))
    return check_of(FILE, problems, f"{name}: {format_bytes(sum(held.values()))} of tensors")


def check_headers(artifact: Artifact) -> Check:
    """Check that each weight file is a sound safetensors file, as long as its header says."""
    tensors, errors = artifact.headers
    problems = [oneline(error).replace(f"{artifact.path}/", "") for error in errors]
    if not artifact.weight_files:
        problems.append("no *.safetensors file")
    return check_of(
        "safetensors", problems, f"{len(tensors)} tensors in {format_items(len(artifact.weight_files), 'file')}"
    )


def check_index(artifact: Artifact) -> Check:
    """Check that the index names exactly the tensors that the weight files hold, each in its file."""
    name = "index"
    files = artifact.weight_files
    if INDEX_FILE not in artifact.names:
        problems = [] if files == (SINGLE_FILE,) else [f"{len(files)} weight files without {INDEX_FILE}"]
        return check_of(name, problems, f"one file, {SINGLE_FILE}")
    if SINGLE_FILE in files:
        return Check(name, False, f"{SINGLE_FILE} stands beside {INDEX_FILE}", "remove the one that is left over")
    tensors, errors = artifact.headers
    if errors:
        return _without_tensors(name, artifact)
    held = {tensor: file for file, tensor, _ in tensors}
    index = read_json(artifact.path / INDEX_FILE, max_bytes=MAX_JSON_BYTES + _INDEX_BYTES * len(held))
    metadata = index.get("metadata")
    named = index.get("weight_map")
    named = named if isinstance(named, dict) else {}
    problems = [f"{tensor} is said to be in {file}" for tensor, file in named.items() if held.get(tensor) != file]
    problems += [f"{tensor} of {file} is not in it" for tensor, file in held.items() if tensor not in named]
    size = sum(tensor.nbytes for _, _, tensor in tensors)
    stated = metadata.get("total_size") if isinstance(metadata, dict) else None
    if stated not in (None, size):
        problems.append(f"its total_size is {stated} instead of {size}")
    return check_of(name, problems, f"{len(held)} tensors in {format_items(len(files), 'file')}")


def check_dtypes(artifact: Artifact) -> Check:
    """Check that the weight files hold the bytes of each type that the receipt states, and as many as were planned."""
    name = "dtypes and sizes"
    if artifact.receipt is None:
        return without_receipt(name)
    try:
        held = artifact.bytes_by_type
    except QToolkitError:
        return _without_tensors(name, artifact)
    written = artifact.receipt.dtypes
    memory = artifact.receipt.memory
    problems = [
        f"{format_bytes(held.get(dtype, 0))} of {dtype} instead of {format_bytes(written.get(dtype, 0))}"
        for dtype in sorted({*held, *written})
        if held.get(dtype) != written.get(dtype)
    ]
    size = sum(held.values())
    files = artifact.receipt.files
    on_disk = sum(files[file].size for file in artifact.weight_files if file in files)
    # Of a file that holds the tokenizer too, the whole is planned.
    whole = isinstance(artifact.format, FileFormat)
    planned_part = on_disk if whole else size
    headers = 0 if whole else _HEADER_BYTES * len(artifact.headers.tensors)
    planned = memory.predicted_disk_after
    if planned is not None and abs(planned_part - planned) > headers:
        problems.append(f"{format_bytes(planned_part)} instead of the {format_bytes(planned)} that were planned")
    if memory.disk_after is not None and abs(memory.disk_after - on_disk) > headers:
        problems.append(f"weight files of {format_bytes(on_disk)} instead of {format_bytes(memory.disk_after)}")
    least = _LEAST_FOOTPRINT * size - _BUFFER_BYTES
    if not least <= memory.footprint_after <= _MOST_FOOTPRINT * size + _BUFFER_BYTES:
        stated = format_bytes(memory.footprint_after)
        problems.append(f"a memory footprint of {stated}, which tensors of {format_bytes(size)} do not have")
    seen = ", ".join(f"{dtype} {format_bytes(count)}" for dtype, count in held.items())
    return check_of(name, problems, seen)


def check_config(artifact: Artifact) -> Check:
    """Check that transformers has a class of its own for the config, and that its releases 4 and 5 read the same."""
    try:
        folders.check_loadable(artifact.path)
        config = folders.load_config(artifact.path)
    except QToolkitError as error:
        return Check("config", False, oneline(error).replace(str(artifact.path), "the folder"))
    architecture = (config.architectures or [config.model_type])[0]
    missing = ", ".join(missing_keys(artifact.config))
    note = f"without {missing}: transformers 4 takes its own defaults" if missing else ""
    value = f"{architecture}, {str(config.dtype).removeprefix('torch.')}"
    problems = (*disagreements(artifact.config), *_template_problems(artifact))
    return check_of("config", problems, value) if problems else Check("config", True, value, note)


def _template_problems(artifact: Artifact) -> list[str]:
    """Compare the chat template's own file with the one in `tokenizer_config.json`, which older readers look for."""
    file = artifact.path / TEMPLATE_FILE
    inside = read_json(artifact.path / TOKENIZER_CONFIG).get("chat_template")
    if not isinstance(inside, str) or not file.is_file() or file.stat().st_size > MAX_JSON_BYTES:
        return []
    # As transformers reads it: in text mode, where every kind of line end is the same.
    same = file.read_text(encoding="utf-8", errors="replace").splitlines() == inside.splitlines()
    return [] if same else [f"{TEMPLATE_FILE} and the chat_template in {TOKENIZER_CONFIG} are not the same"]


def check_quantization(artifact: Artifact) -> Check:
    """Check that the config describes the quantization that the receipt states, and that the tensors show."""
    name = "quantization config"
    values = artifact.config.get("quantization_config")
    if values is None:
        codes = _codes(artifact)
        if artifact.receipt is None and codes is None:
            return Check(name, None, "none in config.json", "a model in full precision")
        seen = "none in config.json" if codes is None else f"none in config.json, and {codes}"
        return Check(name, False, seen, AGAIN)
    if not isinstance(values, dict):
        return Check(name, False, f"{values!r:.60} in config.json", "it must be an object, or not be there")
    format_ = artifact.format
    problems = [] if format_ is None else list(format_.problems(artifact.path, values))
    try:
        config = config_of_checkpoint(values)
    except (QToolkitError, KeyError, TypeError) as error:
        return Check(name, False if artifact.receipt else None, oneline(error))
    if artifact.receipt is not None:
        stated = {"method": config.method} | config.to_dict()
        problems += [
            f"{key} is {stated[key]} instead of {wanted}"
            for key, wanted in {"method": artifact.receipt.method, **artifact.receipt.settings}.items()
            if key in _COMPARED_OPTIONS and key in stated and stated[key] != wanted
        ]
        problems += _layer_problems(artifact, artifact.receipt.num_layers)
    # Nothing but a receipt tells which method chose the codes.
    method = f", method {config.method}" if artifact.receipt else ""
    return check_of(name, problems, f"{values.get('quant_method', config.format)}{method}")


def _layer_problems(artifact: Artifact, stated: int) -> list[str]:
    """Compare the number of quantized layers in a receipt with those in the files, where the format can count them."""
    tensors, errors = artifact.headers
    if artifact.format is None or errors or not tensors:
        return []
    held = artifact.format.num_layers(artifact.quantization or {}, (name for _, name, _ in tensors))
    return [] if held in (None, stated) else [f"{held} layers are quantized instead of {stated}"]


def _codes(artifact: Artifact) -> str | None:
    """Find a tensor of codes, which loads as if it were a weight where no config says that it is quantized.

    Returns:
        What it is, as a text; None where there is none.
    """
    try:
        tensors = folders.read_weights(artifact.path)
    except QToolkitError:
        return None
    return find_codes({name: tensor.dtype for name, tensor in tensors.items()}, lambda name: name.endswith(".weight"))
