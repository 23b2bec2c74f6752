"""What was measured once and need not be again: JSON files in the user's cache folder."""

import contextlib
import json
import os
from pathlib import Path
from typing import Any


def cache_folder() -> Path:
    """The folder of this package in the user's cache: `$XDG_CACHE_HOME/qtoolkit`, otherwise `~/.cache/qtoolkit`."""
    return Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "qtoolkit"


def read_json(file: Path) -> dict[str, Any]:
    """The values of a file; none where it is missing or damaged."""
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def write_json(file: Path, values: dict[str, Any]) -> None:
    """Write a file whole; where that cannot be, it is measured again the next time."""
    beside = file.with_name(f"{file.name}.{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text(json.dumps(values), encoding="utf-8")
        beside.replace(file)
    except OSError:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)
