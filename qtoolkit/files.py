"""Files that are whole or not there at all, and the folder for what can be made again."""

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# A config takes some kB. Ten million bytes of JSON become at most a few hundred million in memory.
MAX_JSON_BYTES = 10_000_000
# Python itself gives up some hundred levels further down, in the middle of whatever it does.
_MAX_DEPTH = 50


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


def read_json(file: Path, *, max_bytes: int = MAX_JSON_BYTES) -> dict[str, Any]:
    """The values of a JSON object in a file; none where it is missing, damaged, no object, too large or too deep."""
    # Reading a named pipe would wait for ever.
    if not file.is_file():
        return {}
    try:
        with file.open("rb") as stream:
            data = stream.read(max_bytes + 1)
        values = json.loads(data.decode()) if len(data) <= max_bytes else None
    except (OSError, ValueError, RecursionError):
        return {}
    return values if isinstance(values, dict) and is_shallow(values) else {}


def is_shallow(values: Any) -> bool:
    """Whether nested dicts, lists and tuples are no deeper than any that is meant: as deep ones cannot be compared."""
    level = [values]
    for _ in range(_MAX_DEPTH):
        level = [
            inner
            for value in level
            for inner in (value.values() if isinstance(value, Mapping) else value)
            if isinstance(inner, Mapping | list | tuple)
        ]
        if not level:
            return True
    return False


def keep_json(file: Path, values: dict[str, Any]) -> None:
    """Keep what was measured; where it cannot be written, it is measured again the next time."""
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, json.dumps(values).encode())
