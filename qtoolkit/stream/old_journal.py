"""Move journal files that belong to another job or version to a folder of their own; they are never deleted."""

import filecmp
import os
import re
from collections.abc import Sequence
from itertools import count
from pathlib import Path

_JOURNAL_FILE = re.compile(r"(recipe|tokens|weights|block-\d{5,})\.(json|safetensors)")


def put_aside(journal: Path, files: Sequence[Path]) -> Path:
    """Move files of `OUTPUT.partial/journal` to `OUTPUT.old-journal`, and return that folder.

    If another file or folder has that name, or holds other files of these names, a number is appended. Files that are
    already there replace themselves: a copy of the journal on the Hub brings the same files again.
    """
    output = journal.parent.with_name(journal.parent.name.removesuffix(".partial"))
    names = (output.with_name(f"{output.name}.old-journal{f'-{number}' if number > 1 else ''}") for number in count(1))
    aside = next(folder for folder in names if _can_receive(folder, files))
    aside.mkdir(exist_ok=True)
    for file in files:
        file.replace(aside / file.name)
    return aside


def _can_receive(folder: Path, files: Sequence[Path]) -> bool:
    """Return whether a folder does not exist, or holds journal files alone and no different ones of these names."""
    if not os.path.lexists(folder):
        return True
    if folder.is_symlink() or not folder.is_dir():
        return False
    old = {entry.name: entry for entry in folder.iterdir()}
    if not all(_JOURNAL_FILE.fullmatch(name) for name in old):
        return False
    return all(_same_file(file, old[file.name]) for file in files if file.name in old)


def _same_file(file: Path, old: Path) -> bool:
    return old.is_file() and not old.is_symlink() and filecmp.cmp(file, old, shallow=False)
