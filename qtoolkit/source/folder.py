"""A model that lies in a folder: its weight files, and what its config says of it."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtoolkit.errors import CheckpointError, ModelNotFoundError, UnsafeCheckpointError, UnsupportedModelError, oneline
from qtoolkit.source.weights import StoredTensor, read_tensors

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


def weight_files(folder: Path) -> tuple[Path, ...]:
    """The safetensors files of a folder: those that its index names, `model.safetensors`, or all of them.

    Raises:
        UnsafeCheckpointError: the weights are there as pickles only, and unpickling runs code.
        UnsupportedModelError: the weights are in `.gguf` files only.
        CheckpointError: a file that the index names is missing or outside the folder, or there are no weights.
    """
    index = folder / INDEX_FILE
    if index.exists():
        names = sorted(set(_read_json(index).get("weight_map", {}).values()))
        missing = [name for name in names if Path(name).name != name or not (folder / name).is_file()]
        if missing or not names:
            raise CheckpointError(f"{index} names {missing[0] if missing else 'no file'}, which is not in the folder")
        return tuple(folder / name for name in names)
    if (folder / SINGLE_FILE).exists():
        return (folder / SINGLE_FILE,)
    files = sorted(folder.iterdir())
    found = tuple(file for file in files if file.suffix == ".safetensors")
    if found:
        return found
    pickles = [file.name for file in files if file.suffix in PICKLE_SUFFIXES]
    if pickles:
        raise UnsafeCheckpointError(
            f"{folder} has pickled weights only ({pickles[0]}), and unpickling runs code: ask its author for safetensors"
        )
    ggufs = [file.name for file in files if file.suffix == ".gguf"]
    if ggufs:
        raise UnsupportedModelError(f"{folder} holds .gguf files: name one of them, for example {folder / ggufs[0]}")
    raise CheckpointError(f"{folder} holds no *.safetensors weights")


def read_weights(folder: Path) -> dict[str, StoredTensor]:
    """The tensors of all weight files of a folder by name; headers only.

    Raises:
        CheckpointError: a damaged file, or a tensor that stands in two files.
    """
    tensors: dict[str, StoredTensor] = {}
    for file in weight_files(folder):
        for name, tensor in read_tensors(file).items():
            if name in tensors:
                raise CheckpointError(f"{name!r} stands in {tensors[name].file.name} and in {file.name}")
            tensors[name] = tensor
    return tensors


def check_config(folder: Path) -> None:
    """Refuse, by its `config.json` alone, a model that cannot be quantized.

    Raises:
        ModelNotFoundError: no `config.json`.
        UnsafeCheckpointError: a model class that only the repository's own code defines.
        UnsupportedModelError: already quantized, or without a language-model head.
    """
    values = _config_values(folder)
    if values.get("quantization_config"):
        how = values["quantization_config"]
        method = how.get("quant_method", "unknown") if isinstance(how, dict) else how
        raise UnsupportedModelError(f"{folder} is quantized already ({method}): name the full-precision model instead")
    check_loadable(folder)


def check_loadable(folder: Path) -> None:
    """Refuse a model that transformers cannot run as a causal language model with its own code.

    Raises:
        ModelNotFoundError, UnsafeCheckpointError, UnsupportedModelError: as `check_config`.
    """
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    values = _config_values(folder)
    kind, architectures = values.get("model_type"), values.get("architectures") or []
    if kind not in CONFIG_MAPPING_NAMES:
        if "auto_map" in values:
            raise UnsafeCheckpointError(
                f"{folder} needs code from its repository to run (model type {kind!r}), which qtoolkit never runs"
            )
        raise UnsupportedModelError(f"{folder} has the model type {kind!r}, which this transformers does not know: update it")
    causal = set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values())
    if kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES or (architectures and not causal.intersection(architectures)):
        what = architectures[0] if architectures else kind
        raise UnsupportedModelError(f"{folder} is no causal language model ({what}): it has no head that writes text")


def load_config(folder: Path) -> "PreTrainedConfig":
    """The folder's config as transformers reads it.

    Raises:
        CheckpointError: transformers refuses it.
    """
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"{folder / 'config.json'} is not a valid config: {oneline(error)}") from error


def _config_values(folder: Path) -> dict[str, Any]:
    file = folder / "config.json"
    if not file.is_file():
        raise ModelNotFoundError(f"{folder} has no config.json: name a folder that `save_pretrained` wrote, or a Hub id")
    return _read_json(file)


def _read_json(file: Path) -> dict[str, Any]:
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{file} is not valid JSON: {oneline(error)}") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{file} is not a JSON object")
    return values
