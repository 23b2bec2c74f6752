"""Files that are whole or not there at all, also when the power fails, and the folder for what can be made again."""

import contextlib
import ctypes
import errno
import functools
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from qtoolkit.errors import ConfigError, OutputError, QToolkitError, oneline

_AT_FDCWD = -100
_NOREPLACE, _EXCHANGE = 1, 2
# What a kernel, a file system or a sandbox answers that does not know `renameat2` or one of its flags.
_REFUSED = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EPERM)
# What is answered where a folder cannot be synced: by some network drives, and of folders that may not be read.
_NO_FOLDER_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EBADF, errno.EACCES)
# What is answered where nothing can be written for now, of temporary files that are small.
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)
_SCRATCH_BYTES = 2**20
# A config takes some kB. Ten million bytes of JSON become at most a few hundred million in memory.
MAX_JSON_BYTES = 10_000_000
# Python itself gives up some hundred levels further down, in the middle of whatever it does.
_MAX_DEPTH = 50


def write_whole(file: Path, data: bytes) -> None:
    """Write a file beside its name, sync it, rename it, and sync its folder: no half of it is ever seen.

    That holds wherever a process dies or the power fails; once this returns, the file stays.

    Raises:
        OSError: the disk is full, or the folder has gone; what stood there before still does.
    """
    # A name of this call alone: of two threads, or two machines on one drive, neither takes the other's for its own.
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


def open_new(file: Path) -> Any:
    """Make a file to write bytes to: what stood at its name goes, and a link there is not followed."""
    file.unlink(missing_ok=True)
    return file.open("xb")


def make_folder(folder: Path) -> None:
    """Make a folder and those above it where they are missing, so that they stay when the power fails."""
    missing = [folder, *folder.parents]
    missing = [one for one in missing if not os.path.lexists(one)]
    # Not `mkdir(parents=True)`, which calls itself once for each: a path may have more than Python has room for.
    for one in reversed(missing):
        one.mkdir(exist_ok=True)
    folder.mkdir(exist_ok=True)
    for one in missing:
        sync_folder(one.parent)


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk. Windows, and drives that cannot, are not asked."""
    if os.name == "nt":
        return
    try:
        _sync(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:
            raise


def sync_tree(folder: Path) -> None:
    """Wait until all files and folders in a folder, and their names, are on the disk."""
    for place, _, names in os.walk(folder, topdown=False, onerror=_raise):
        for name in names:
            sync_file(Path(place, name))
        sync_folder(Path(place))


def sync_file(file: Path) -> None:
    """Wait until what a file holds is on the disk."""
    # Windows syncs only what may be written.
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
    """Rename a folder to a name that nothing has.

    Raises:
        FileExistsError: something has it, and stays as it was.
        OSError: it cannot be renamed.
    """
    if _rename2(path, target, _NOREPLACE):
        return
    if os.path.lexists(target):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
    path.rename(target)


def exchange(first: Path, second: Path) -> bool:
    """Give two folders each other's name, both at once; false where kernel or file system cannot.

    Raises:
        OSError: they cannot be renamed.
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
    """Linux' own rename with flags, from the C library; None where there is none."""
    try:
        call = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, TypeError, AttributeError):  # Windows has no such library, others no such call
        return None
    call.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)
    return call


def path_of(value: Any, option: str) -> Path:
    """What somebody gives as a path, absolute, with "~" for their home; it need not exist.

    Args:
        value: a text or a path object.
        option: what it was given as, for the error.

    Raises:
        ConfigError: something else, characters that no path has (NUL, half a character), or a relative path where the
            current folder was removed.
    """
    try:
        name = os.fspath(value)
        if not isinstance(name, str):
            raise ConfigError(f"{option} must be a path as text, got {value!r:.60}: decode it with os.fsdecode")
        if not name or "\0" in name or not os.fsencode(name):
            raise ConfigError(f"{option} {name!r:.60} is empty or holds a NUL, which no path does: name another")
        # Not Path's own, which raises where a home belongs to nobody.
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
    """Make a path of ours or the environment's absolute, with "~" for the user's home, and raise nothing.

    Where the current folder was removed, a relative one stands below the root of the disk; for a user without a home,
    "~" is a folder of that name.
    """
    return current_folder() / os.path.expanduser(path)  # noqa: PTH111  # Path's own raises without a home


def user_cache() -> Path:
    """The user's folder for what can be made again; not made by this."""
    folder = os.path.expanduser(os.environ.get("XDG_CACHE_HOME", "~/.cache"))  # noqa: PTH111
    # A user without a home, as `docker run --user` makes them, keeps nothing: below a file, nothing can be made.
    return Path(os.devnull if folder.startswith("~") else folder, "qtoolkit")


def current_folder() -> Path:
    """The current folder; the root of the disk where somebody removed it."""
    try:
        return Path.cwd()
    except FileNotFoundError:
        return Path(os.sep)


def home_folder() -> Path:
    """The user's home; the root of the disk for a user who has none."""
    try:
        return Path.home()
    except RuntimeError:
        return Path(os.sep)


def file_bytes(file: Path) -> int:
    """Return the bytes of a file; 0 where there is none."""
    return file.stat().st_size if file.is_file() else 0


def read_json(file: Path, *, max_bytes: int = MAX_JSON_BYTES) -> dict[str, Any]:
    """The values of a JSON object in a file; none where it is missing, damaged, no object, too large or too deep."""
    try:
        # Opening a named pipe would wait for ever.
        if not file.is_file():
            return {}
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


@contextmanager
def scratch_folder(prefix: str) -> Iterator[Path]:
    """A folder for small files, which goes at the end.

    Args:
        prefix: how its name begins.

    Raises:
        OutputError: there is no room for it.
    """
    made = False
    try:
        with TemporaryDirectory(prefix=prefix) as name:
            _refuse_full(name)
            made = True
            yield Path(name)
    except OSError as error:
        if isinstance(error, QToolkitError) or (made and error.errno not in _NO_ROOM):
            raise
        place = f" in {Path(error.filename).parent}" if isinstance(error.filename, str) else ""
        raise OutputError(
            f"temporary files cannot be written{place} ({error.strerror or oneline(error)}): free some room there, or "
            "set TMPDIR to a folder on another disk"
        ) from error


def _refuse_full(folder: str) -> None:
    if shutil.disk_usage(folder).free < _SCRATCH_BYTES:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), folder)


def keep_json(file: Path, values: dict[str, Any]) -> None:
    """Keep what was measured; where it cannot be written, it is measured again the next time."""
    with contextlib.suppress(OSError):
        make_folder(file.parent)
        write_whole(file, json.dumps(values).encode())
