"""Tell which `.gguf` file of a repository on the Hub is meant, of which there are mostly several."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from qtoolkit.checkpoints.gguf_parts import part_names, refuse_missing
from qtoolkit.errors import ModelNotFoundError, UnsupportedModelError
from qtoolkit.hub.hub_errors import refuse_token
from qtoolkit.units import format_bytes

_NAME = re.compile(r"([\w.-]+/[\w.-]+)(?::([\w.-]+)|/(.+\.gguf))(@.*)?", re.IGNORECASE)
# The type at the end of a file's name, "model-Q4_K_M.gguf", "model.UD-IQ2_XXS.gguf".
_TYPE = re.compile(r"[-._/]((?:UD-)?(?:I?Q\d\w*|TQ\d_\d|MXFP4\w*|BF16|FP?16|FP?32))$", re.IGNORECASE)
# Files beside models: projectors of images, importance matrices, adapters. These words in a name that ends in a type of
# blocks tell how a model was made: "qwen2-imatrix-Q4_K_M.gguf".
_NO_MODELS = re.compile(
    r"(?:^|[-._/])(?:mmproj|(?:imatrix|lora)(?![^/]*[-._](?:UD-)?(?:I?Q\d|TQ\d|MXFP4)\w*(?:\.gguf)?$))(?=[-._]|$)[^/]*$",
    re.IGNORECASE,
)
_MAX_LISTED = 20


@dataclass(frozen=True)
class GgufName:
    """Which file of which repository is meant.

    Attributes:
        repo: "org/name", or "org/name@revision".
        choice: a type, "Q4_K_M", or the name of a file, "model-Q4_K_M.gguf".
    """

    repo: str
    choice: str


def parse_gguf_name(name: str) -> GgufName | None:
    """Return what a name says of a `.gguf` file on the Hub; None for a name of something else.

    Raises:
        ConfigError: a part of the name is a Hub token.

    Example:
        >>> parse_gguf_name("org/name:Q4_K_M@main")
        GgufName(repo='org/name@main', choice='Q4_K_M')
        >>> parse_gguf_name("org/name/a.gguf")
        GgufName(repo='org/name', choice='a.gguf')
    """
    refuse_token(name)
    found = _NAME.fullmatch(name.strip())
    return GgufName(found[1] + (found[4] or ""), found[2] or found[3]) if found else None


def type_in_name(file: str) -> str:
    """Return the type that a file's name ends in, "Q4_K_M"; empty where it ends in none."""
    stem = re.sub(r"(-\d{5}-of-\d{5})?\.gguf$", "", file, flags=re.IGNORECASE)
    found = _TYPE.search(f"/{stem}")
    return found[1].upper() if found else ""


def gguf_models(sizes: Mapping[str, int]) -> dict[str, int]:
    """Return the `.gguf` models of a repository, each by the name of its first file, with the bytes of all its files.

    Args:
        sizes: bytes of all files by name.
    """
    models: dict[str, int] = {}
    for name, size in sorted(sizes.items()):
        sound = all(part not in ("", ".", "..") for part in name.split("/")) and "\\" not in name
        if name.lower().endswith(".gguf") and sound and not _NO_MODELS.search(name):
            first = _in_folder(name, part_names(name.rpartition("/")[2])[0])
            models[first] = models.get(first, 0) + size
    return models


def named(repo_id: str, models: Mapping[str, int]) -> dict[str, int]:
    """Return models by the names with which they are opened: `org/name:TYPE`, or whole where two are of one type."""
    types = [type_in_name(file) for file in models]
    return {
        f"{repo_id}:{type_}" if type_ and types.count(type_) == 1 else f"{repo_id}/{file}": size
        for (file, size), type_ in zip(models.items(), types, strict=True)
    }


def listed(repo_id: str, models: Mapping[str, int]) -> str:
    """Return how each model is named, with its size, for a message."""
    words = [f"{name} ({format_bytes(size)})" for name, size in named(repo_id, models).items()]
    more = f" and {len(words) - _MAX_LISTED} more" if len(words) > _MAX_LISTED else ""
    return ", ".join(words[:_MAX_LISTED]) + more


def choose_gguf(repo_id: str, sizes: Mapping[str, int], choice: str) -> tuple[str, ...]:
    """Return the files of the model that is meant: one, or all of its parts, the first one first.

    Args:
        repo_id: the repository, for errors.
        sizes: bytes of all files by name.
        choice: a type, "Q4_K_M", or the name of a file.

    Raises:
        UnsupportedModelError: the repository holds no `.gguf` model.
        ModelNotFoundError: none is the one that is meant, or several are.
        CheckpointError: a part is missing.
    """
    models = gguf_models(sizes)
    if not models:
        raise UnsupportedModelError(f"{repo_id} holds no .gguf model: name it without {choice!r}")
    if choice.lower().endswith(".gguf"):
        first = _in_folder(choice, part_names(choice.rpartition("/")[2])[0])
        found = [name for name in models if name == first]
    else:
        found = [name for name in models if type_in_name(name) == choice.upper()]
    if len(found) != 1:
        what = f"{len(found)} files of the type" if found else "no file"
        raise ModelNotFoundError(f"{repo_id} holds {what} {choice!r:.80}: name one of {listed(repo_id, models)}")
    folder = found[0].rpartition("/")[0]
    beside = {name.rpartition("/")[2] for name in sizes if name.rpartition("/")[0] == folder}
    return tuple(_in_folder(found[0], part) for part in refuse_missing(found[0].rpartition("/")[2], beside))


def _in_folder(beside: str, name: str) -> str:
    """Return the path of a file in the folder of another one of the repository."""
    folder = beside.rpartition("/")[0]
    return f"{folder}/{name}" if folder else name
