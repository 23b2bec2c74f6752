"""Say what to do about a damaged file, which depends on where it lies, and find Git LFS pointers."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import constants

from qtoolkit.checkpoints.filenames import HEADERS_PREFIX
from qtoolkit.errors import CheckpointError
from qtoolkit.files import absolute

# The first line of a pointer, the text that git keeps for a large file:
# https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md
_LFS_POINTER = b"version https://git-lfs.github.com/spec/"


def sound_copy(path: Path | None) -> str:
    """Say how to get a sound copy of a model, as the end of a message.

    Args:
        path: its folder, or a file in it; None for a model in memory.

    Returns:
        Words without a full stop. A file of the Hub is downloaded again only once it is removed from the cache; no
        download mends a folder that is not in the cache.
    """
    if path is None:
        return "load it anew"
    cache = absolute(constants.HF_HUB_CACHE)
    inside = absolute(path)
    if inside.is_relative_to(cache):
        return f"remove {cache / inside.relative_to(cache).parts[0]} and download it again, or name another revision"
    if any(part.startswith(HEADERS_PREFIX) for part in inside.parts):
        return "it is so on the Hub: name another revision"
    return "save it anew, or copy it from where it came from"


def file_of(tensors: Mapping[str, Any]) -> Path | None:
    """Return the file of the first tensor that is stored in one, for `sound_copy`; None where all are in memory."""
    return next((tensor.file for tensor in tensors.values() if hasattr(tensor, "file")), None)


def lfs_problem(file: Path) -> str:
    """Say what is wrong with a file that is a Git LFS pointer, and what helps; empty for any other file."""
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
    """Refuse Git LFS pointers among files of a folder that will be read: some readers take a pointer for the content.

    Args:
        folder: holds the files.
        patterns: names of files, with `*` for any text.

    Raises:
        CheckpointError: one is a pointer.
    """
    files = (file for pattern in patterns for file in sorted(folder.glob(pattern)) if file.is_file())
    problem = next(filter(None, map(lfs_problem, files)), None)
    if problem is not None:
        raise CheckpointError(problem)
