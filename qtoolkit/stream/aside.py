"""A folder beside a result for files of a journal that do not count in it, and that are never deleted."""

import filecmp
import os
import re
from collections.abc import Sequence
from itertools import count
from pathlib import Path

_OURS = re.compile(r"(recipe|tokens|block-\d{5,})\.(json|safetensors)")


def put_aside(journal: Path, files: Sequence[Path]) -> Path:
    """Move files of `OUTPUT.partial/journal` to `OUTPUT.old-journal`, and give that folder.

    It gets a number where something else has one of these names. What is there already is not moved twice: a copy on
    the Hub brings the same files again.
    """
    output = journal.parent.with_name(journal.parent.name.removesuffix(".partial"))
    names = (output.with_name(f"{output.name}.old-journal{f'-{number}' if number > 1 else ''}") for number in count(1))
    aside = next(folder for folder in names if _takes(folder, files))
    aside.mkdir(exist_ok=True)
    for file in files:
        file.replace(aside / file.name)
    return aside


def _takes(folder: Path, files: Sequence[Path]) -> bool:
    """Return whether files may be moved to a folder: it is not there, or holds such files, and the same where names are."""
    if not os.path.lexists(folder):
        return True
    if folder.is_symlink() or not folder.is_dir() or not all(_OURS.fullmatch(kept.name) for kept in folder.iterdir()):
        return False
    return all(_may_stand(file, folder / file.name) for file in files)


def _may_stand(file: Path, kept: Path) -> bool:
    if not os.path.lexists(kept):
        return True
    return kept.is_file() and not kept.is_symlink() and filecmp.cmp(file, kept, shallow=False)
