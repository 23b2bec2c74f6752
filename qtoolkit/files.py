"""Write files that are complete or do not exist, even after a power failure; resolve paths; read and cache JSON."""

import ctypes
import errno
import functools
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from io import BufferedWriter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from qtoolkit.errors import ConfigError, OutputError, QToolkitError, oneline

_AT_FDCWD = -100
_NOREPLACE, _EXCHANGE = 1, 2
# Errors of a kernel, file system or sandbox that does not know `renameat2` or one of its flags.
_REFUSED = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EPERM)
# Errors where a folder cannot be synced: on some network drives, and for folders that may not be read.
_NO_FOLDER_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EBADF, errno.EACCES)
# Errors of a disk, or of a user's share of it, that has no room.
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# Errors of small temporary files that mean that nothing can be written at the moment.
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)
_SCRATCH_BYTES = 2**20
# A config has some kB. Ten million bytes of JSON take at most a few hundred million in memory.
MAX_JSON_BYTES = 10_000_000
# Python raises RecursionError some hundred levels further down, wherever it happens to be.
_MAX_DEPTH = 50


def write_whole(file: Path, data: bytes) -> None:
    """Write a file under a temporary name, sync it, rename it, and sync its folder: no half of it is ever seen.

    That holds wherever a process dies or the power fails; once this returns, the file is on the disk.

    Raises:
        OSError: the disk is full, or the folder was removed; a file that had the name before is unchanged.
    """
    # The name is unique to this call: two threads, or two machines on one drive, do not write the same file.
    beside = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
    try:
        with open_new(beside) as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        beside.replace(file)
    finally:
        beside.unlink(missing_ok=True)
    sync_folder(file.parent)


def open_new(file: Path) -> BufferedWriter:
    """Open a new file for writing bytes; a file that has its name is removed, and a link there is not followed."""
    file.unlink(missing_ok=True)
    return file.open("xb")


def make_folder(folder: Path) -> None:
    """Make a folder and its missing parents, and sync them, so that they survive a power failure."""
    missing = [one for one in (folder, *folder.parents) if not os.path.lexists(one)]
    # Not `mkdir(parents=True)`, which recurses once per parent: a path may have more of them than Python can recurse.
    for one in reversed(missing):
        one.mkdir(exist_ok=True)
    folder.mkdir(exist_ok=True)
    for one in missing:
        sync_folder(one.parent)


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk; do nothing on Windows, and on drives that cannot do that."""
    if os.name == "nt":
        return
    try:
        _sync(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:
            raise


def sync_tree(folder: Path) -> None:
    """Wait until all files and folders in a folder, and their names, are on the disk."""
    for inner, _, names in os.walk(folder, topdown=False, onerror=_raise):
        for name in names:
            sync_file(Path(inner, name))
        sync_folder(Path(inner))


def sync_file(file: Path) -> None:
    """Wait until the content of a file is on the disk."""
    # Windows syncs only files that are opened for writing.
    _sync(file, os.O_RDWR if os.name == "nt" else os.O_RDONLY)


def _sync(path: Path, flags: int) -> None:
    opened = os.open(path, flags)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def _raise(error: OSError) -> None:
    raise error


def rename_new(path: Path, target: Path) -> None:
    """Rename a folder to a name that no file and no folder has.

    Raises:
        FileExistsError: the name is taken; nothing is changed.
        OSError: the folder cannot be renamed.
    """
    if _rename2(path, target, _NOREPLACE):
        return
    if os.path.lexists(target):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
    path.rename(target)


def exchange(first: Path, second: Path) -> bool:
    """Exchange the names of two folders in one step; return False if the kernel or file system cannot do that.

    Raises:
        OSError: the folders cannot be renamed.
    """
    return _rename2(first, second, _EXCHANGE)


def _rename2(first: Path, second: Path, flag: int) -> bool:
    call = _renameat2()
    if call is None:
        return False
    if call(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), flag) == 0:
        return True
    code = ctypes.get_errno()
    if code in _REFUSED:
        return False
    raise OSError(code, os.strerror(code), str(second))


@functools.cache
def _renameat2() -> Callable[..., int] | None:
    """Return Linux' `renameat2` from the C library, or None if there is none."""
    try:
        call = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, TypeError, AttributeError):  # Windows has no such library, other systems no such call
        return None
    call.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)
    return call


def path_of(value: Any, option: str) -> Path:
    """Return a path that a user gives, absolute and with "~" expanded; it need not exist.

    Args:
        value: a text or a path object.
        option: the name of the option that it was given as, for the error.

    Raises:
        ConfigError: it is neither, or has characters that no path has (NUL, half a character), or it is relative and
            the current folder was removed.
    """
    try:
        name = os.fspath(value)
        if not isinstance(name, str):
            raise ConfigError(f"{option} must be a path as text, got {value!r:.60}: decode it with os.fsdecode")
        if not name or "\0" in name or not os.fsencode(name):
            raise ConfigError(f"{option} {name!r:.60} is empty or holds a NUL, which no path does: name another")
        # Not `Path.expanduser`, which raises for "~name" where no such user exists.
        return Path(os.path.expanduser(name)).absolute()  # noqa: PTH111
    except FileNotFoundError as error:
        raise ConfigError(
            f"{option} {name!r:.60} is relative, and the current folder was removed: give the whole path, or os.chdir "
            "to a folder that is there"
        ) from error
    except TypeError as error:
        raise ConfigError(f"{option} must be a path, got {type(value).__name__} {value!r:.60}") from error
    except UnicodeEncodeError as error:
        raise ConfigError(f"{option} {name!r:.60} holds half a character, which no path does: name another") from error


def absolute(path: str | os.PathLike[str]) -> Path:
    """Make a path of ours or of the environment absolute, expand "~", and raise nothing.

    Where the current folder was removed, a relative path is taken from the root of the disk; for a user without a home,
    "~" is a folder of that name.
    """
    return current_folder() / os.path.expanduser(path)  # noqa: PTH111  # Path.expanduser raises without a home


def user_cache() -> Path:
    """Return qtoolkit's folder in the user's cache, which may not exist."""
    folder = os.path.expanduser(os.environ.get("XDG_CACHE_HOME", "~/.cache"))  # noqa: PTH111
    # For a user without a home, as `docker run --user` makes them, nothing is cached: no folder can be below a file.
    return Path(os.devnull if folder.startswith("~") else folder, "qtoolkit")


def current_folder() -> Path:
    """Return the current folder, or the root of the disk if somebody removed it."""
    try:
        return Path.cwd()
    except FileNotFoundError:
        return Path(os.sep)


def shortened(path: str | os.PathLike[str]) -> str:
    """Return a path relative to the current folder if it is inside, so that a notebook shows no private folders."""
    folder = current_folder()
    return str(Path(path).relative_to(folder)) if Path(path).is_relative_to(folder) else str(path)


def home_folder() -> Path:
    """Return the user's home, or the root of the disk for a user who has none."""
    try:
        return Path.home()
    except RuntimeError:
        return Path(os.sep)


def sha256_of(file: Path) -> str:
    """Return the SHA-256 of a file as hexadecimal digits; it is read in pieces."""
    with file.open("rb", buffering=0) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def file_bytes(file: Path) -> int:
    """Return the size of a file in bytes; 0 if there is no such file."""
    return file.stat().st_size if file.is_file() else 0


def read_json(file: Path, *, max_bytes: int = MAX_JSON_BYTES) -> dict[str, Any]:
    """Return the JSON object in a file; {} if it is missing, damaged, no object, too large or nested too deep."""
    try:
        # Opening a named pipe would block forever.
        if not file.is_file():
            return {}
        with file.open("rb") as stream:
            data = stream.read(max_bytes + 1)
        values = json.loads(data.decode()) if len(data) <= max_bytes else None
    except (OSError, ValueError, RecursionError):
        return {}
    return values if isinstance(values, dict) and is_shallow(values) else {}


def is_shallow(values: Any) -> bool:
    """Return whether dicts, lists and tuples are nested at most 50 deep: comparing deeper ones may fail."""
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


@contextmanager
def scratch_folder(prefix: str) -> Iterator[Path]:
    """Make a folder for small temporary files, which is removed at the end of the block.

    Args:
        prefix: how the name of the folder begins.

    Raises:
        OutputError: the disk is full, or nothing can be written to it.
    """
    is_made = False
    try:
        with TemporaryDirectory(prefix=prefix) as name:
            _refuse_full(name)
            is_made = True
            yield Path(name)
    except OSError as error:
        if isinstance(error, QToolkitError) or (is_made and error.errno not in _NO_ROOM):
            raise
        where = f" in {Path(error.filename).parent}" if isinstance(error.filename, str) else ""
        raise OutputError(
            f"temporary files cannot be written{where} ({error.strerror or oneline(error)}): free some room there, or "
            "set TMPDIR to a folder on another disk"
        ) from error


def _refuse_full(folder: str) -> None:
    if shutil.disk_usage(folder).free < _SCRATCH_BYTES:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), folder)


def cache_json(file: Path, values: dict[str, Any]) -> None:
    """Cache measured values in a file; where it cannot be written, they are measured again the next time."""
    with suppress(OSError):
        make_folder(file.parent)
        write_whole(file, json.dumps(values).encode())
