"""Files that are whole or not there at all, and the folder for what can be made again."""

import contextlib
import json
import os
from pathlib import Path
from typing import Any

from qtoolkit.errors import ConfigError


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


def path_of(value: Any, option: str) -> Path:
    """What somebody gives as a path, absolute, with "~" for their home; it need not exist.

    Args:
        value: a text or a path object.
        option: what it was given as, for the error.

    Raises:
        ConfigError: something else, or characters that no path has: NUL, half a character.
    """
    try:
        name = os.fspath(value)
        if not isinstance(name, str):
            raise ConfigError(f"{option} must be a path as text, got {value!r:.60}: decode it with os.fsdecode")
        if not name or "\0" in name or not os.fsencode(name):
            raise ConfigError(f"{option} {name!r:.60} is empty or holds a NUL, which no path does: name another")
        # Not Path's own, which raises where a home belongs to nobody.
        return Path(os.path.expanduser(name)).absolute()  # noqa: PTH111
    except TypeError as error:
        raise ConfigError(f"{option} must be a path, got {type(value).__name__} {value!r:.60}") from error
    except UnicodeEncodeError as error:
        raise ConfigError(f"{option} {name!r:.60} holds half a character, which no path does: name another") from error


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
