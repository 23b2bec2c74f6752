"""Open a folder that qtoolkit put around a `.gguf` file."""

import copy
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtoolkit.checkpoints.filenames import PICKLE_SUFFIXES
from qtoolkit.checkpoints.folder import load_config, load_generation_config, read_config
from qtoolkit.checkpoints.gguf_header import read_gguf
from qtoolkit.checkpoints.remedy import refuse_pointers
from qtoolkit.errors import CheckpointError, SourceError, UnsupportedModelError
from qtoolkit.files import file_bytes
from qtoolkit.hub.gguf_choice import gguf_models
from qtoolkit.hub.licenses import ancestry, inherited, license_of_folder, read_card
from qtoolkit.models.checkpoint import Checkpoint
from qtoolkit.models.from_gguf import open_gguf
from qtoolkit.models.tokenizer import load_tokenizer
from qtoolkit.units import format_bytes

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

_COMPARED = ("num_hidden_layers", "hidden_size", "num_attention_heads", "num_key_value_heads")


def named_gguf(folder: Path) -> Path | None:
    """Return the `.gguf` file that a folder's config names as its weights; None where it names none.

    Raises:
        CheckpointError: it names one that is not in the folder.
        UnsupportedModelError: it names none, and the folder holds nothing but such files.
    """
    if not (folder / "config.json").is_file():
        _refuse_files_alone(folder)
        return None
    try:
        described = read_config(folder).get("quantization_config")
    except SourceError:
        return None  # refused with its reason where the config is checked
    if not isinstance(described, dict) or described.get("quant_method") != "gguf":
        _refuse_files_alone(folder)
        return None
    name = described.get("file")
    files = [file.name for file in folder.iterdir() if file.is_file() and file.suffix == ".gguf"]
    if name not in files:
        raise CheckpointError(
            f"{folder / 'config.json'} names the file {name!r:.80}, which is no .gguf file beside it: "
            "get the folder again"
        )
    return folder / str(name)


def lone_gguf(folder: Path) -> Path | None:
    """Return the `.gguf` model of a folder that has no other weights, and no config; None for another folder.

    Of a model in parts it is the first file.
    """
    if (folder / "config.json").is_file():
        return None
    sizes = _sizes(folder)
    models = gguf_models(sizes)
    return folder / next(iter(models)) if len(models) == 1 and not _has_other_weights(sizes) else None


def _sizes(folder: Path) -> dict[str, int]:
    """Return the bytes of the files of a folder by their names."""
    return {file.name: file.stat().st_size for file in folder.iterdir() if file.is_file()}


def _has_other_weights(names: Iterable[str]) -> bool:
    """Return whether one of these files holds weights that are none of `.gguf` files."""
    return any(name.endswith((".safetensors", *PICKLE_SUFFIXES)) for name in names)


def _refuse_files_alone(folder: Path) -> None:
    """Refuse a folder whose weights are `.gguf` files of which its config names none.

    Raises:
        UnsupportedModelError: the message names each, with its size.
    """
    sizes = _sizes(folder)
    models = gguf_models(sizes)
    if models and not _has_other_weights(sizes):
        refuse_pointers(folder, ["*.gguf"])
        shown = ", ".join(f"{folder / name} ({format_bytes(size)})" for name, size in models.items())
        count = f"{len(models)} .gguf model{'s' * (len(models) > 1)}"
        raise UnsupportedModelError(f"{folder} holds {count}: name one of {shown}")


def open_gguf_folder(
    name: str, folder: Path, file: Path, tokenizer: Any, check: Callable[[Path], None], *, headers_only: bool = False
) -> Checkpoint:
    """Open a folder that qtoolkit put around a `.gguf` file: config and tokenizer are the folder's.

    Args:
        name: what the user called the model.
        folder: holds `config.json` and the file.
        file: that the config names.
        tokenizer, headers_only: as for `open_gguf`.
        check: refuses the model by its config.

    Raises:
        SourceError, MissingDependencyError: as `open_gguf`.
        CheckpointError: config and file are of models of different sizes.
    """
    check(folder)
    if tokenizer is None and not headers_only:
        tokenizer = load_tokenizer(folder)
    config = load_config(folder)
    expanded = copy.deepcopy(config)
    del expanded.quantization_config
    opened = open_gguf(file, tokenizer, config=expanded, headers_only=headers_only)
    _check_numbers(file, config)
    card = read_card(folder)
    return replace(
        opened,
        name=name,
        config=config,
        generation_config=load_generation_config(folder),
        tokenizer_bytes=file_bytes(folder / "tokenizer.json"),
        license=license_of_folder(folder),
        inherited=inherited(card) | ancestry(card),
        notes=("the .gguf file is expanded to bfloat16 here; llama.cpp runs it as it is stored",),
        _built=[],
    )


def _check_numbers(file: Path, config: "PreTrainedConfig") -> None:
    """Refuse a config whose numbers are not those of the file: a model with fewer layers would load, and be another."""
    for key, stored in read_gguf(file).config.items():
        named = getattr(config, key, None)
        if key in _COMPARED and isinstance(named, int) and isinstance(stored, int) and named != stored:
            raise CheckpointError(
                f"the config of {file.parent} says {key} {named}, and {file.name} {stored}: get both again"
            )
