"""List the models that lie on this machine, by the names and sizes of files alone: nothing is opened that is large."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from qtoolkit.files import read_json
from qtoolkit.hub.cache import cached_names, repo_folder

# Of a folder with more entries, the rest is not looked at: a listing must not take seconds.
_MOST_ENTRIES = 500
_WEIGHTS = (".safetensors", ".gguf")


@dataclass(frozen=True)
class ModelAtHand:
    """A model on this machine, or one that is suggested to begin with.

    Attributes:
        name: as every verb accepts it: a folder, a `.gguf` file or a Hub id.
        place: where it is: "working folder", "output", "Hub cache", or "to download".
        size: bytes of its weight files.
        changed: when these were written, in seconds since 1970; 0.0 for one to download.
        quantized: whether its config, or its being a `.gguf` file, says so.
    """

    name: str
    place: str
    size: int
    changed: float = 0.0
    quantized: bool = False


# Small models that may be used and published freely (Apache-2.0), with the bytes of their weight files on the Hub.
SUGGESTED = (
    ModelAtHand("HuggingFaceTB/SmolLM2-135M-Instruct", "to download", 269_060_552),
    ModelAtHand("Qwen/Qwen2.5-0.5B-Instruct", "to download", 988_097_824),
    ModelAtHand("TinyLlama/TinyLlama-1.1B-Chat-v1.0", "to download", 2_200_119_864),
)


def models_at_hand(folder: Path, output: str = "output") -> tuple[ModelAtHand, ...]:
    """Return the models on this machine, the newest of each place first, and then those that are suggested.

    Asks no network, reads no weight and imports no torch. Whether all files of a model are there is not looked at.

    Args:
        folder: the working folder, whose own folders and `.gguf` files are looked at.
        output: the folder in it that results are written to.
    """
    found = [*_in_folder(folder, "", "working folder"), *_in_folder(folder / output, f"{output}/", "output")]
    found += _in_cache()
    known = {model.name for model in found}
    return (*found, *(model for model in SUGGESTED if model.name not in known))


def _in_folder(folder: Path, prefix: str, place: str) -> list[ModelAtHand]:
    """Return the models in a folder, whose names begin with `prefix`; none where it cannot be read."""
    found: list[ModelAtHand] = []
    for path in _entries(folder):
        # Results that are not complete, and whatever else is hidden, are no models.
        if path.name.startswith(".") or path.name.endswith(".partial"):
            continue
        if path.is_dir():
            found += _model_in(path, prefix + path.name, place)
        elif path.suffix.lower() == ".gguf":
            state = path.stat()
            found.append(ModelAtHand(prefix + path.name, place, state.st_size, state.st_mtime, quantized=True))
    return sorted(found, key=lambda model: (-model.changed, model.name))


def _in_cache() -> list[ModelAtHand]:
    """Return the models that have a config and weights in the local Hub cache."""
    snapshots = [(name, path) for name in cached_names() for path in _entries(repo_folder(name) / "snapshots")]
    found = {model.name: model for name, path in snapshots for model in _model_in(path, name, "Hub cache")}
    return sorted(found.values(), key=lambda model: (-model.changed, model.name))


def _model_in(folder: Path, name: str, place: str) -> Iterator[ModelAtHand]:
    """Yield the model whose config and weights lie in a folder, if there are both."""
    files = [path for path in _entries(folder) if path.suffix.lower() in _WEIGHTS and path.is_file()]
    if not files or not (folder / "config.json").is_file():
        return
    states = [file.stat() for file in files]
    quantized = "quantization_config" in read_json(folder / "config.json")
    size, changed = sum(state.st_size for state in states), max(state.st_mtime for state in states)
    yield ModelAtHand(name, place, size, changed, quantized)


def _entries(folder: Path) -> list[Path]:
    """Return what lies in a folder, as far as it is looked at; nothing where it cannot be read."""
    try:
        with os.scandir(folder) as entries:
            return [Path(entry.path) for entry, _ in zip(entries, range(_MOST_ENTRIES), strict=False)]
    except OSError:
        return []
