"""What to do about a file that is not what it should be: what helps depends on where it lies."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import constants

from qtoolkit.checkpoints.filenames import HEADERS_PREFIX
from qtoolkit.errors import CheckpointError
from qtoolkit.files import absolute

# https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md: the first line of what git keeps in place of a large file.
_LFS_POINTER = b"version https://git-lfs.github.com/spec/"


def sound_copy(place: Path | None) -> str:
    """How to come by a sound copy of a model, as the end of a message.

    Args:
        place: its folder, or a file in it; None for a model in memory.

    Returns:
        Words without a full stop. A file of the Hub is downloaded again only when the cache has let go of it; no
        download mends a folder of one's own.
    """
    if place is None:
        return "load it anew"
    cache, inside = absolute(constants.HF_HUB_CACHE), absolute(place)
    if inside.is_relative_to(cache):
        return f"remove {cache / inside.relative_to(cache).parts[0]} and download it again, or name another revision"
    if any(part.startswith(HEADERS_PREFIX) for part in inside.parts):
        return "it is so on the Hub: name another revision"
    return "save it anew, or copy it from where it came from"


def place_of(tensors: Mapping[str, Any]) -> Path | None:
    """The file of the first tensor that is stored in one, for `sound_copy`; None where all are in memory."""
    return next((tensor.file for tensor in tensors.values() if hasattr(tensor, "file")), None)


def lfs_problem(file: Path) -> str:
    """What is wrong with a file, and what helps, where it is a Git LFS pointer; empty otherwise."""
    # Opening a named pipe would wait for ever.
    if not file.is_file():
        return ""
    try:
        with file.open("rb") as stream:
            start = stream.read(len(_LFS_POINTER))
    except OSError:
        return ""
    return f"{file} is a Git LFS pointer, not the file itself: run `git lfs pull` there" * (start == _LFS_POINTER)


def refuse_pointers(folder: Path, patterns: Iterable[str]) -> None:
    """Refuse Git LFS pointers among those files of a folder that are going to be read.

    A pointer is text, which some readers take for a file's content.

    Args:
        folder: holds the files.
        patterns: names of files, `*` for any letters.

    Raises:
        CheckpointError: there is one.
    """
    files = (file for pattern in patterns for file in sorted(folder.glob(pattern)) if file.is_file())
    problem = next(filter(None, map(lfs_problem, files)), None)
    if problem is not None:
        raise CheckpointError(problem)
