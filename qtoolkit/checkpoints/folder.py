"""A model that lies in a folder: its weight files, and what its config says of it."""

import json
import os
from collections.abc import Collection, Iterable, Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtoolkit.checkpoints.adapters import refuse_adapter
from qtoolkit.checkpoints.config_limits import check_numbers, without_code
from qtoolkit.checkpoints.filenames import INDEX_FILE, OTHER_WEIGHTS, PICKLE_SUFFIXES, QUANTIZE_CONFIG, SINGLE_FILE
from qtoolkit.checkpoints.remedy import lfs_problem, refuse_pointers, sound_copy
from qtoolkit.checkpoints.safetensors import StoredTensor, read_tensors
from qtoolkit.errors import CheckpointError, ModelNotFoundError, UnsafeCheckpointError, UnsupportedModelError, oneline
from qtoolkit.files import scratch_folder
from qtoolkit.units import format_bytes

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedConfig

# A real config takes some kB, and the index of 100,000 tensors about 10 MB.
MAX_CONFIG_BYTES = 32_000_000
# Brackets, braces and commas: each value takes up to 100 bytes once it is read.
MAX_JSON_VALUES = 1_000_000


def weight_files(folder: Path) -> tuple[Path, ...]:
    """The safetensors files of a folder: the one that its GPTQ config names, or those that transformers looks for.

    These are `model.safetensors`, those that its index names, or all of them, in this order.

    Raises:
        UnsafeCheckpointError: the weights are there as pickles only, and unpickling runs code.
        UnsupportedModelError: the weights are in `.gguf` files only.
        CheckpointError: a file that the index names is missing or outside the folder, or there are no weights, or
            `.gguf` files that git has not fetched.
    """
    named = named_file(folder, [file.name for file in folder.iterdir() if file.is_file()])
    if named is not None:
        return (folder / named,)
    if (folder / SINGLE_FILE).is_file():
        return (folder / SINGLE_FILE,)
    if (folder / INDEX_FILE).exists():
        return _indexed_files(folder / INDEX_FILE)
    found = _all_files(folder)
    if found:
        return found
    files = sorted(file for file in folder.iterdir() if file.is_file())
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
    """The weight file that a GPTQ config names as the model's; None where it names none of those that there are.

    auto-gptq writes `gptq_model-4bit-128g.safetensors`, and a folder may hold several such sets.

    Args:
        folder: holds the config.
        names: the files to choose from.
    """
    try:
        how = _read_json(folder / "config.json").get("quantization_config")
        other = _read_json(folder / QUANTIZE_CONFIG) if (folder / QUANTIZE_CONFIG).is_file() else {}
    except CheckpointError:
        return None
    described = [how] if isinstance(how, dict) else []
    if how is None or quant_method(how) == "gptq":
        described.append(other)
    named = (f"{values.get('model_file_base_name')}.safetensors" for values in described)
    return next((name for name in named if name in names), None)


def _all_files(folder: Path) -> tuple[Path, ...]:
    """Every safetensors file of a folder; one with the name of a second copy or an adapter only where it is alone."""
    files = [file for file in sorted(folder.iterdir()) if file.suffix == ".safetensors" and file.is_file()]
    own = [file for file in files if not any(fnmatch(file.name, pattern) for pattern in OTHER_WEIGHTS)]
    return tuple(own or files)


def _indexed_files(index: Path) -> tuple[Path, ...]:
    weight_map = _read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index} has no weight_map of file names: {sound_copy(index)}")
    names = list(weight_map.values())
    for name in names:
        # os.path, since Path raises on a name that no file can have.
        is_beside = isinstance(name, str) and Path(name).name == name and os.path.isfile(index.parent / name)  # noqa: PTH113
        if not is_beside:
            what = f"{index} names {name!r:.80}, which is no file beside it"
            if _is_stale(index, weight_map):
                raise CheckpointError(f"{what}, and the files that are hold every tensor: remove the index")
            raise CheckpointError(f"{what}: {sound_copy(index)}")
    return tuple(index.parent / name for name in sorted(set(names)))


def _is_stale(index: Path, weight_map: Mapping[str, Any]) -> bool:
    """Whether the files beside an index hold, each once, the tensors that it seeks in others."""
    try:
        return weight_map.keys() <= _read_files(_all_files(index.parent)).keys()
    except CheckpointError:
        return False


def holder_of(folder: Path, name: str) -> str | None:
    """The file beside the index of a folder that holds a tensor, and that the index does not name; None without one."""
    if not (folder / INDEX_FILE).is_file():
        return None
    try:
        others = set(_all_files(folder)) - set(weight_files(folder))
        return next((file.name for file in sorted(others) if name in read_tensors(file)), None)
    except CheckpointError:
        return None


def read_weights(folder: Path) -> dict[str, StoredTensor]:
    """The tensors of all weight files of a folder by name; headers only.

    Raises:
        CheckpointError: a damaged file, or a tensor that stands in two files.
    """
    return _read_files(weight_files(folder))


def _read_files(files: Iterable[Path]) -> dict[str, StoredTensor]:
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
    """Refuse, by its `config.json` alone, a model that cannot be quantized.

    Raises:
        ModelNotFoundError: no `config.json`.
        UnsafeCheckpointError: a model class that only the repository's own code defines.
        UnsupportedModelError: already quantized, without a language-model head, or with an adapter.
    """
    refuse_adapter(folder)
    method = quant_method(quantization(folder, read_config(folder)))
    if method:
        raise UnsupportedModelError(f"{folder} is quantized already ({method!r:.40}): name the full-precision model")
    check_loadable(folder)


def check_loadable(folder: Path) -> None:
    """Refuse a model that transformers cannot run as a causal language model with its own code.

    Raises:
        ModelNotFoundError, UnsafeCheckpointError, UnsupportedModelError: as `check_config`.
        CheckpointError: `config.json` is no JSON object, or names more of something than any model has.
    """
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    refuse_adapter(folder)
    values = read_config(folder)
    check_numbers(str(folder / "config.json"), values)
    how = quantization(folder, values)
    if how is not None and not isinstance(how, dict):
        raise CheckpointError(
            f"{folder / 'config.json'} has the quantization_config {how!r:.40}, which must be an object with a "
            "quant_method: get the one that the model was saved with"
        )
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
    named, causal = architectures(values), set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values())
    if kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES or (named and not causal.intersection(named)):
        what = named[0] if named else kind
        raise UnsupportedModelError(
            f"{folder} is no causal language model ({what!r:.60}): name one that AutoModelForCausalLM runs"
        )


def load_config(folder: Path) -> "PreTrainedConfig":
    """The folder's config as transformers reads it, without what makes transformers fetch or run code.

    Raises:
        CheckpointError: transformers refuses it.
        UnsupportedModelError: it is of several models.
    """
    from transformers import AutoConfig

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
        config.get_text_config()
    except ValueError as error:  # of a text encoder and a decoder, neither is the one
        what = f"{folder} is no causal language model alone ({oneline(error)})"
        raise UnsupportedModelError(f"{what}: name one that AutoModelForCausalLM runs") from error
    how = quantization(folder, vars(config))
    # An empty one says nothing, and would pass for one that does.
    vars(config).pop("quantization_config", None)
    if how:
        config.quantization_config = how
    return config


def _config_of(values: dict[str, Any]) -> "PreTrainedConfig":
    """A config as transformers reads it from a file, of values that stand in none."""
    from transformers import AutoConfig

    with scratch_folder("qtoolkit-config-") as scratch:
        (scratch / "config.json").write_text(json.dumps(values), encoding="utf-8")
        return AutoConfig.from_pretrained(scratch, trust_remote_code=False)


def load_generation_config(folder: Path) -> "GenerationConfig | None":
    """How the folder's model likes to generate; None when it does not say.

    Raises:
        CheckpointError: transformers refuses what it says.
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


def architectures(values: Mapping[str, Any]) -> list[str]:
    """The model classes that a config names; mostly one."""
    named = values.get("architectures")
    return [name for name in named if isinstance(name, str)] if isinstance(named, list) else []


def quant_method(how: Any) -> str | None:
    """The name of the method in a config's `quantization_config`, "unknown" where it has none; None without one."""
    if not how:
        return None
    return str(how.get("quant_method", "unknown") if isinstance(how, dict) else how)


def quantization(folder: Path, values: Mapping[str, Any]) -> Any:
    """What is said of how the folder's model was quantized; early AutoGPTQ has it in a file of its own."""
    how = values.get("quantization_config")
    if how is None and (folder / QUANTIZE_CONFIG).is_file():
        return {"quant_method": "gptq", **_read_json(folder / QUANTIZE_CONFIG)}
    return how


def read_config(folder: Path) -> dict[str, Any]:
    """What stands in the folder's `config.json`.

    Raises:
        ModelNotFoundError: there is none.
        CheckpointError: it cannot be read, or is no JSON object.
    """
    file = folder / "config.json"
    if not file.is_file():
        raise ModelNotFoundError(f"{folder} has no config.json: name a folder that save_pretrained wrote, or a Hub id")
    return _read_json(file)


def _read_json(file: Path) -> dict[str, Any]:
    if not file.is_file():
        # A named pipe would be waited for without end.
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
