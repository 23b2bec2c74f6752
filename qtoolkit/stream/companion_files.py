"""Take along what lies beside a model and holds for its copies: licence, notice, terms of use, other preprocessing."""

from pathlib import Path

from qtoolkit.checkpoints.config_limits import without_code
from qtoolkit.checkpoints.filenames import is_companion
from qtoolkit.checkpoints.remedy import lfs_problem
from qtoolkit.errors import printable
from qtoolkit.files import read_json
from qtoolkit.models.tokenizer import TOKENIZER_FILES
from qtoolkit.noted import Noted

# A licence has some ten kB.
_MOST_BYTES = 10_000_000


def copy_companions(base: Path | None, folder: Path) -> Noted[list[str]]:
    """Copy the companion files of a base into the folder of its quantized copy, which has its other files already.

    Args:
        base: the folder of the base; None where it is not known.
        folder: the result's.

    Returns:
        The names of the copies; notes name each file that stays behind and why, and the files of the base's tokenizer
        that the result has no use for.
    """
    names: list[str] = []
    notes: list[str] = []
    for file in sorted(base.iterdir()) if base is not None else ():
        if not is_companion(file.name):
            continue
        problem = _problem(file)
        if problem:
            notes.append(f"left behind, {problem}: {printable(file.name)}")
        elif not (folder / file.name).exists():
            (folder / file.name).write_bytes(file.read_bytes())
            names.append(file.name)
    others = {file.name for name in TOKENIZER_FILES for file in (base.glob(name) if base is not None else ())}
    left = sorted(name for name in others if not (folder / name).exists() and not name.endswith(".jinja"))
    if left:
        notes.append(f"left behind, since the tokenizer was saved anew and holds what they say: {', '.join(left)}")
    return Noted(names, tuple(notes))


def _problem(file: Path) -> str:
    """Return why a file is not copied; empty for one that is."""
    if not file.is_file():
        return "since it is no regular file"
    if lfs_problem(file):
        return "since it is a Git LFS pointer"
    if file.stat().st_size > _MOST_BYTES:
        return "since it is no text of the kind that its name says"
    names_code = file.suffix == ".json" and without_code(read_json(file))[1]
    return "since it names code of the repository" if names_code else ""
