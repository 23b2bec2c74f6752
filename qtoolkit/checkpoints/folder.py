"""Find the weight files of a model in a folder, and read and check its config."""

import json
import os
from collections.abc import Callable, Collection, Iterable, Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtoolkit.checkpoints.adapters import refuse_adapter
from qtoolkit.checkpoints.config_limits import check_numbers, without_code
from qtoolkit.checkpoints.filenames import INDEX_FILE, OTHER_WEIGHTS, PICKLE_SUFFIXES, QUANTIZE_CONFIG, SINGLE_FILE
from qtoolkit.checkpoints.model_class import NAME_ANOTHER, architectures, auto_class_of
from qtoolkit.checkpoints.remedy import lfs_problem, refuse_pointers, sound_copy
from qtoolkit.checkpoints.safetensors import StoredTensor, read_tensors
from qtoolkit.checkpoints.source_codes import source_codes
from qtoolkit.errors import CheckpointError, ModelNotFoundError, UnsafeCheckpointError, UnsupportedModelError, oneline
from qtoolkit.files import scratch_folder
from qtoolkit.units import format_bytes

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedConfig

# The largest config or index that is read: a real config has some kB, the index of 100,000 tensors about 10 MB.
MAX_CONFIG_BYTES = 32_000_000
# The most brackets, braces and commas in one: each value takes up to 100 bytes in memory.
MAX_JSON_VALUES = 1_000_000
# Raises for the `quantization_config` of the model of a name that cannot be read.
Refuse = Callable[[str, Mapping[str, Any]], None]


def weight_files(folder: Path) -> tuple[Path, ...]:
    """Return the safetensors files of a model.

    The first of these that there are: the file that a GPTQ config names, `model.safetensors`, the files that the index
    names, all `*.safetensors`.

    Raises:
        UnsafeCheckpointError: the weights are pickles, and unpickling runs code.
        UnsupportedModelError: the weights are `.gguf` files.
        CheckpointError: a file that the index names is missing or outside the folder, there are no weights, or `.gguf`
            files are Git LFS pointers.
    """
    files = sorted(file for file in folder.iterdir() if file.is_file())
    named = named_file(folder, [file.name for file in files])
    if named is not None:
        return (folder / named,)
    if (folder / SINGLE_FILE).is_file():
        return (folder / SINGLE_FILE,)
    if (folder / INDEX_FILE).exists():
        return _indexed_files(folder / INDEX_FILE)
    all_files = _all_files(folder)
    if all_files:
        return all_files
    pickles = [file.name for file in files if file.suffix in PICKLE_SUFFIXES]
    if pickles:
        raise UnsafeCheckpointError(
            f"{folder} has pickled weights only ({pickles[0]}), and unpickling runs code: "
            "ask its author for safetensors"
        )
    ggufs = [file.name for file in files if file.suffix == ".gguf"]
    if ggufs:
        refuse_pointers(folder, ["*.gguf"])
        raise UnsupportedModelError(f"{folder} holds .gguf files: name one of them, for example {folder / ggufs[0]}")
    raise CheckpointError(f"{folder} holds no *.safetensors weights: {sound_copy(folder)}")


def named_file(folder: Path, names: Collection[str]) -> str | None:
    """Return the weight file that a GPTQ config names; None where it names none, or one that is not in the folder.

    auto-gptq writes `gptq_model-4bit-128g.safetensors`, and a folder may hold several such files, each a whole model.

    Args:
        folder: holds the config.
        names: the names of the files in the folder, or in the repository that it is a part of.
    """
    try:
        own = _read_json(folder / "config.json").get("quantization_config")
        other = _read_json(folder / QUANTIZE_CONFIG) if (folder / QUANTIZE_CONFIG).is_file() else {}
    except CheckpointError:
        return None
    configs = [own] if isinstance(own, dict) else []
    if own is None or quant_method(own) == "gptq":
        configs.append(other)
    named = (f"{values.get('model_file_base_name')}.safetensors" for values in configs)
    return next((name for name in named if name in names), None)


def _all_files(folder: Path) -> tuple[Path, ...]:
    """Return every safetensors file; files named as a second copy or an adapter only where there are no others."""
    files = [file for file in sorted(folder.iterdir()) if file.suffix == ".safetensors" and file.is_file()]
    own = [file for file in files if not any(fnmatch(file.name, pattern) for pattern in OTHER_WEIGHTS)]
    return tuple(own or files)


def _indexed_files(index: Path) -> tuple[Path, ...]:
    """Return the files that an index names, each checked to be a file beside it."""
    weight_map = _read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index} has no weight_map of file names: {sound_copy(index)}")
    for name in weight_map.values():
        # os.path, since Path raises on a name that no file can have.
        is_beside = isinstance(name, str) and Path(name).name == name and os.path.isfile(index.parent / name)  # noqa: PTH113
        if not is_beside:
            what = f"{index} names {name!r:.80}, which is no file beside it"
            if _is_stale(index, weight_map):
                raise CheckpointError(f"{what}, and the files that are hold every tensor: remove the index")
            raise CheckpointError(f"{what}: {sound_copy(index)}")
    return tuple(index.parent / name for name in sorted(set(weight_map.values())))


def _is_stale(index: Path, weight_map: Mapping[str, Any]) -> bool:
    """Check whether the files beside an index hold, each once, all tensors that it says are in other files."""
    try:
        return weight_map.keys() <= _read_files(_all_files(index.parent)).keys()
    except CheckpointError:
        return False


def holder_of(folder: Path, name: str) -> str | None:
    """Return the name of a file that holds a tensor and that the folder's index does not name; None without one."""
    if not (folder / INDEX_FILE).is_file():
        return None
    try:
        others = set(_all_files(folder)) - set(weight_files(folder))
        return next((file.name for file in sorted(others) if name in read_tensors(file)), None)
    except CheckpointError:
        return None


def read_weights(folder: Path) -> dict[str, StoredTensor]:
    """Return the tensors of all weight files of a folder by name; headers only.

    Raises:
        CheckpointError: a file is damaged, or a tensor is in two files.
    """
    return _read_files(weight_files(folder))


def _read_files(files: Iterable[Path]) -> dict[str, StoredTensor]:
    """Return the tensors of some files of one folder; raises as `read_weights`."""
    tensors: dict[str, StoredTensor] = {}
    for file in files:
        for name, tensor in read_tensors(file).items():
            if name in tensors:
                first, folder = tensors[name].file.name, file.parent
                is_indexed = (folder / INDEX_FILE).exists()
                way = sound_copy(folder) if is_indexed else "leave one set of weights there"
                raise CheckpointError(f"{folder}: {name!r:.80} stands in {first} and in {file.name}: {way}")
            tensors[name] = tensor
    return tensors


def check_config(folder: Path) -> None:
    """Refuse a model that cannot be quantized, by its `config.json` alone.

    Raises:
        ModelNotFoundError: there is no `config.json`.
        UnsafeCheckpointError: only the repository's own code defines its class.
        UnsupportedModelError: it is quantized already, but for FP8 and MXFP4 that can be expanded; has no
            language-model head, or has an adapter.
        CheckpointError: as `check_loadable` and `source_codes`.
    """
    refuse_adapter(folder)
    described = quantization(folder, read_config(folder))
    method = quant_method(described)
    if method and source_codes(str(folder), described) is None:
        raise UnsupportedModelError(f"{folder} is quantized already ({method!r:.40}): name the full-precision model")
    check_loadable(folder)


def accept_all(name: str, values: Mapping[str, Any]) -> None:
    """Accept any `quantization_config`."""


def check_loadable(folder: Path, refuse: Refuse = accept_all) -> None:
    """Refuse a model that transformers cannot run, from text to text, with its own code.

    Args:
        folder: holds `config.json`.
        refuse: raises for a `quantization_config` that cannot be read, of the model of this name.

    Raises:
        ModelNotFoundError, UnsafeCheckpointError, UnsupportedModelError: as `check_config`, or what `refuse` raises.
        CheckpointError: `config.json` is no JSON object, or has a number that is larger than in any model.
    """
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    refuse_adapter(folder)
    values = read_config(folder)
    check_numbers(str(folder / "config.json"), values)
    config = quantization(folder, values)
    if config is not None and not isinstance(config, dict):
        raise CheckpointError(
            f"{folder / 'config.json'} has the quantization_config {config!r:.40}, which must be an object with a "
            "quant_method: get the one that the model was saved with"
        )
    if config:
        refuse(str(folder), config)
    kind = values.get("model_type")
    if not isinstance(kind, str) or kind not in CONFIG_MAPPING_NAMES:
        if "auto_map" in values:
            raise UnsafeCheckpointError(
                f"{folder} needs code from its repository to run (model type {kind!r:.40}), which qtoolkit never runs: "
                "name a model that transformers has a class for"
            )
        raise UnsupportedModelError(
            f"{folder} has the model type {kind!r:.40}, which this transformers does not know: update it"
        )
    if auto_class_of(values) is None:
        what = next(iter(architectures(values)), kind)
        raise UnsupportedModelError(f"{folder} is no causal language model ({what!r:.60}): {NAME_ANOTHER}")


def load_config(folder: Path) -> "PreTrainedConfig":
    """Load a folder's config with transformers, without what makes transformers fetch or run code.

    Raises:
        CheckpointError: transformers refuses it.
        UnsupportedModelError: it describes a model of several parts, none of which is the language model.
    """
    from transformers import AutoConfig, PreTrainedConfig

    file = folder / "config.json"
    values, dropped = without_code(read_config(folder))
    try:
        if dropped:
            config = _config_of(values)
            config.name_or_path = str(folder)
        else:
            config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # a value of the wrong type makes transformers raise anything
        raise CheckpointError(f"{file} is not a valid config ({oneline(error)}): {sound_copy(file)}") from error
    try:
        text = config.get_text_config()
    except ValueError as error:  # transformers takes neither of a text encoder and a decoder
        what = f"{folder} is no causal language model alone ({oneline(error)})"
        raise UnsupportedModelError(f"{what}: {NAME_ANOTHER}") from error
    if not isinstance(text, PreTrainedConfig):
        what = f"{file} is not a valid config (the part of its language model is {type(text).__name__} {text!r:.60})"
        raise CheckpointError(f"{what}: {sound_copy(file)}")
    if config.is_encoder_decoder or text.is_encoder_decoder:
        what = f"{folder} is no causal language model (its {text.model_type} encodes text for a decoder)"
        raise UnsupportedModelError(f"{what}: {NAME_ANOTHER}")
    described = quantization(folder, vars(config))
    # An empty one says nothing, and the model would count as quantized.
    vars(config).pop("quantization_config", None)
    if described:
        config.quantization_config = described
    return config


def _config_of(values: dict[str, Any]) -> "PreTrainedConfig":
    """Make a config of values that are in no file, as transformers would read them from one."""
    from transformers import AutoConfig

    with scratch_folder("qtoolkit-config-") as scratch:
        (scratch / "config.json").write_text(json.dumps(values), encoding="utf-8")
        return AutoConfig.from_pretrained(scratch, trust_remote_code=False)


def load_generation_config(folder: Path) -> "GenerationConfig | None":
    """Load a folder's generation config; None where it has none.

    Raises:
        CheckpointError: transformers refuses it.
    """
    from transformers import GenerationConfig

    file = folder / "generation_config.json"
    if not file.is_file():
        return None
    refuse_pointers(folder, [file.name])
    if file.stat().st_size > MAX_CONFIG_BYTES:
        raise CheckpointError(f"{file} is larger than {format_bytes(MAX_CONFIG_BYTES)}: correct or remove it")
    try:
        return GenerationConfig.from_pretrained(folder)
    except (OSError, ValueError, TypeError, AttributeError, KeyError) as error:
        raise CheckpointError(f"{file} is not valid ({oneline(error)}): correct or remove it") from error


def quant_method(quantization_config: Any) -> str | None:
    """Return the method that a `quantization_config` names, "unknown" where it names none; None for an empty one."""
    if not quantization_config:
        return None
    is_dict = isinstance(quantization_config, dict)
    return str(quantization_config.get("quant_method", "unknown") if is_dict else quantization_config)


def quantization(folder: Path, values: Mapping[str, Any]) -> Any:
    """Return the `quantization_config` of a folder's config; early AutoGPTQ wrote it into a file of its own.

    Args:
        folder: the folder.
        values: the values of its config.

    Raises:
        CheckpointError: that file cannot be read.
    """
    described = values.get("quantization_config")
    if described is None and (folder / QUANTIZE_CONFIG).is_file():
        return {"quant_method": "gptq", **_read_json(folder / QUANTIZE_CONFIG)}
    return described


def read_config(folder: Path) -> dict[str, Any]:
    """Return the values of a folder's `config.json`.

    Raises:
        ModelNotFoundError: there is none.
        CheckpointError: it cannot be read, or is no JSON object.
    """
    file = folder / "config.json"
    if not file.is_file():
        raise ModelNotFoundError(f"{folder} has no config.json: name a folder that save_pretrained wrote, or a Hub id")
    return _read_json(file)


def _read_json(file: Path) -> dict[str, Any]:
    """Read a JSON object of bounded size; raises CheckpointError, which `qtoolkit.files.read_json` does not."""
    if not file.is_file():
        # Opening a named pipe would wait for ever.
        raise CheckpointError(f"{file} is no regular file: replace it by the file itself")
    try:
        with file.open("rb") as stream:
            data = stream.read(MAX_CONFIG_BYTES + 1)
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read ({error.strerror}): check its permissions") from error
    if len(data) > MAX_CONFIG_BYTES:
        raise CheckpointError(f"{file} is larger than {format_bytes(MAX_CONFIG_BYTES)}: {sound_copy(file)}")
    if sum(map(data.count, (b",", b"[", b"{"))) > MAX_JSON_VALUES:
        raise CheckpointError(f"{file} has more than {MAX_JSON_VALUES} values: get the model's own file")
    try:
        values = json.loads(data.decode())
    except (ValueError, RecursionError) as error:
        what = lfs_problem(file) or f"{file} is not valid JSON ({oneline(error)}): {sound_copy(file)}"
        raise CheckpointError(what) from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{file} is not a JSON object: {sound_copy(file)}")
    return values
