"""List what a folder with a model holds: its files, and entries that are neither files nor folders."""

import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from qtoolkit.errors import printable

# Folders that git and downloads make beside the files; not part of the model.
_NOT_PART = (".git", ".cache")
_KINDS = {
    stat.S_IFDIR: "is a link to a folder",
    stat.S_IFIFO: "is a named pipe",
    stat.S_IFSOCK: "is a socket",
    stat.S_IFCHR: "is a device",
    stat.S_IFBLK: "is a device",
}


@dataclass(frozen=True)
class Listing:
    """What a folder and its subfolders hold, each entry as "folder/name".

    Attributes:
        names: the regular files that can be read, sorted; also behind a link.
        outside: those of them that are links out of the folder.
        odd: anything else -> what it is, "is a named pipe". It is never opened: reading a pipe would wait for ever.
    """

    names: tuple[str, ...]
    outside: tuple[str, ...]
    odd: Mapping[str, str]


def list_folder(folder: Path) -> Listing:
    """List all entries of a folder and its subfolders, without opening any."""
    names: list[str] = []
    outside: list[str] = []
    odd: dict[str, str] = {}
    homes = _homes(folder)
    left = [""]
    # No recursion: folders may be nested as deep as a path is long.
    while left:
        for name, entry in _entries(folder, left.pop(), odd):
            if entry.is_dir(follow_symlinks=False) and entry.name in _NOT_PART:
                continue
            if problem := _problem(entry):
                odd[name] = problem
            elif entry.is_dir(follow_symlinks=False):
                left.append(name)
            else:
                names.append(name)
                if entry.is_symlink() and not _is_inside(entry.path, homes):
                    outside.append(name)
    return Listing(tuple(sorted(names)), tuple(sorted(outside)), odd)


def _entries(folder: Path, inside: str, odd: dict[str, str]) -> Iterator[tuple[str, "os.DirEntry[str]"]]:
    """Yield name and entry of all that one folder holds; a folder that cannot be listed goes into `odd`."""
    try:
        with os.scandir(folder / inside) as entries:
            for entry in entries:
                yield f"{inside}/{entry.name}" if inside else entry.name, entry
    except OSError as error:
        odd[inside or "the folder"] = f"cannot be looked into ({error.strerror})"


def _problem(entry: "os.DirEntry[str]") -> str:
    """Return what is wrong with an entry; empty for a folder, and for a regular file that can be read."""
    if printable(entry.name) != entry.name:
        return "has a name that not every system can write or show"
    if entry.is_dir(follow_symlinks=False):
        return "is a folder" if entry.name.endswith(".safetensors") else ""
    try:
        mode = entry.stat().st_mode
    except OSError as error:
        return "is a link that leads nowhere" if entry.is_symlink() else f"cannot be read ({error.strerror})"
    if not stat.S_ISREG(mode):
        return _KINDS.get(stat.S_IFMT(mode), "is no regular file")
    if not os.access(entry.path, os.R_OK):
        return "cannot be read: its permissions do not allow it"
    return ""


def _homes(folder: Path) -> list[str]:
    """Return where links may lead: into the folder; in the Hub's cache also to the contents kept beside snapshots."""
    homes = [os.path.realpath(folder)]
    if folder.parent.name == "snapshots":
        homes.append(os.path.realpath(folder.parent.parent / "blobs"))
    return homes


def _is_inside(path: str, homes: list[str]) -> bool:
    """Check whether a link leads into one of some folders."""
    target = Path(os.path.realpath(path))
    return any(target.is_relative_to(home) for home in homes)
