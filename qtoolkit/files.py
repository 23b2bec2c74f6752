"""Files that are whole or not there at all, and the folder for what can be made again."""

import os
from pathlib import Path


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
