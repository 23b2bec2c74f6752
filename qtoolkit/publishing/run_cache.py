"""What a process answered of a folder earlier in this session, as long as nothing that it read has changed."""

import json
import sys
from pathlib import Path
from typing import Any

from qtoolkit.publishing.listing import list_folder

_answers: dict[str, dict[str, Any]] = {}


def state_of(request: dict[str, Any]) -> str:
    """What an answer depends on: the request, the state of every file of the folder and its base, and the packages."""
    folders = [request["folder"], *filter(None, [request["base"]])]
    # Installing or removing a package touches the folder that it lies in.
    packages = [(place, Path(place).stat().st_mtime_ns) for place in sys.path if Path(place).is_dir()]
    return json.dumps([request, [_stamps(Path(folder)) for folder in folders], packages])


def remember(state: str, answer: dict[str, Any]) -> None:
    """Keep an answer, unless the model or its base was not read: what stood in the way may be gone the next time."""
    if not answer["model_error"] and "error" not in (answer["base"] or {}):
        _answers[state] = answer


def recall(state: str) -> dict[str, Any] | None:
    """The answer that was given in this state; None where there was none."""
    return _answers.get(state)


def _stamps(folder: Path) -> list[tuple[str, int, int, int]]:
    """Name, bytes, time of change and inode of each file."""
    states = [(name, (folder / name).stat()) for name in list_folder(folder).names]
    return [(name, state.st_size, state.st_mtime_ns, state.st_ino) for name, state in states]
