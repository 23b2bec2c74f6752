"""Files that are whole or not there at all, and the folder for what can be made again."""

import contextlib
import json
import os
from pathlib import Path
from typing import Any


def write_whole(file: Path, data: bytes) -> None:
    """Write a file beside its name, sync it, and rename it: a process may die anywhere, and no half of it is seen.

    Raises:
        OSError: the disk is full, or the folder has gone; what stood there before still does.
    """
    beside = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        with beside.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        beside.replace(file)
    finally:
        beside.unlink(missing_ok=True)


def user_cache() -> Path:
    """The user's folder for what can be made again; not made by this."""
    return Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "qtoolkit"


def read_json(file: Path) -> dict[str, Any]:
    """The values of a JSON object in a file; none where it is missing, damaged, or no object."""
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return values if isinstance(values, dict) else {}


def keep_json(file: Path, values: dict[str, Any]) -> None:
    """Keep what was measured; where it cannot be written, it is measured again the next time."""
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, json.dumps(values).encode())
