"""Remember, in this Python session, what a process answered about a folder, until anything that it read changes."""

import json
import sys
from pathlib import Path
from typing import Any

from qtoolkit.publishing.listing import list_folder

# An answer takes some kB, and a person works on a few models at a time.
MAX_ANSWERS = 16
# What Python names the folders of installed packages; Debian and Colab the second.
_PACKAGES = ("site-packages", "dist-packages")
_answers: dict[str, dict[str, Any]] = {}


def state_of(request: dict[str, Any]) -> str:
    """Return what an answer depends on, as text that is equal as long as nothing changed.

    That is the request, the state of every file of the folder and of its base, and the installed packages.
    """
    folders = [request["folder"], *filter(None, [request["base"]])]
    # Installing or removing a package changes the time of the folder that holds it. Not a folder of notebooks, which
    # is on the path too: each save changes its time.
    installed = (path for path in map(Path, sys.path) if path.name in _PACKAGES and path.is_dir())
    packages = [(str(path), path.stat().st_mtime_ns) for path in installed]
    return json.dumps([request, [_stamps(Path(folder)) for folder in folders], packages])


def remember(state: str, answer: dict[str, Any]) -> None:
    """Keep an answer, the last `MAX_ANSWERS` of them; the oldest goes first.

    One in which the model or its base could not be read is not kept: what stood in the way may be gone the next time.
    """
    if answer["model_error"] or "error" in (answer["base"] or {}):
        return
    _answers[state] = answer
    while len(_answers) > MAX_ANSWERS:
        del _answers[next(iter(_answers))]


def recall(state: str) -> dict[str, Any] | None:
    """Return the answer that was kept for this state; None where there is none."""
    return _answers.get(state)


def clear() -> None:
    """Forget all answers, so that every model runs anew."""
    _answers.clear()


def _stamps(folder: Path) -> list[tuple[str, int, int, int]]:
    """List name, bytes, time of change and inode of each file."""
    states = [(name, (folder / name).stat()) for name in list_folder(folder).names]
    return [(name, state.st_size, state.st_mtime_ns, state.st_ino) for name, state in states]
