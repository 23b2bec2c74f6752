"""The folder `OUTPUT.partial`, in which a result is made: marked as qtoolkit's, and used by one job at a time.

It holds a marker file with a random id; `model`, the result until it is whole; `journal`, what an unfinished job has
done; and for a moment `replaced`, the model that stood at OUTPUT, where the system cannot exchange two folders in one
step. A result that could not take its place is called `result`.
"""

import errno
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from qtoolkit.errors import OutputError, OutputExistsError, oneline
from qtoolkit.files import make_folder, rename_new, sync_folder, write_whole

MARKER = ".qtoolkit-partial"
_MARK = re.compile(rb"qtoolkit ([0-9a-f]{32})\n")
_PRIVATE = 0o700
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
_NO_LOCKS = (errno.ENOTSUP, errno.ENOLCK, errno.ENOSYS, errno.EINVAL)


@dataclass(frozen=True)
class Partial:
    """A folder that this process has locked.

    Attributes:
        output: what it is for.
        folder: where it is.
        marker: the id in its marker file.
        state: its device and inode, for as long as it is locked.
    """

    output: Path
    folder: Path
    marker: str
    state: os.stat_result

    @property
    def model(self) -> Path:
        """The result, until it is whole."""
        return self.folder / "model"

    @property
    def journal(self) -> Path:
        """What an unfinished job has done."""
        return self.folder / "journal"

    @property
    def replaced(self) -> Path:
        """The model that stood at the output, between two renames."""
        return self.folder / "replaced"

    @property
    def result(self) -> Path:
        """A result that could not take its place."""
        return self.folder / "result"

    def check(self) -> None:
        """Refuse to go on when this is not the folder any more that was locked.

        Raises:
            OutputError: it was removed or replaced meanwhile.
        """
        if not (is_at(self.state, self.folder) and marker_of(self.folder) == self.marker):
            raise OutputError(
                f"{self.folder} was removed or replaced while the job wrote in it: leave it alone, and call that again"
            )

    def put_back(self) -> None:
        """Undo a replacement that was stopped between its two renames."""
        # Without `model`, the second one was done, and what stood there before is not wanted any more.
        if is_folder(self.replaced) and is_folder(self.model) and not os.path.lexists(self.output):
            rename_new(self.replaced, self.output)
            sync_folder(self.output.parent)

    def clear(self, *, keep_journal: bool) -> None:
        """Remove what is in it but for its marker, and, where it is wanted, a journal that holds a block.

        Raises:
            OutputError: something in it cannot be removed.
        """
        kept = keep_journal and is_folder(self.journal) and any(self.journal.glob("block-*.json"))
        for entry in self.folder.iterdir():
            if entry.name != MARKER and not (kept and entry == self.journal):
                _remove(entry)

    def remove(self) -> None:
        """Remove it, so that it is never seen without its marker."""
        self.clear(keep_journal=False)
        last = self.folder.with_name(_aside(self.output, self.marker))
        rename_new(self.folder, last)
        sync_folder(last.parent)
        shutil.rmtree(last)


def partial_of(output: Path) -> Path:
    """Where the result for an output is made."""
    # Not `with_name`, which raises for the root of a disk.
    return output.parent / f"{output.name}.partial"


def marker_of(folder: Path) -> str | None:
    """The id in a folder's marker file; None where it is no folder of ours, or a link."""
    file = folder / MARKER
    try:
        if not (is_folder(folder) and stat.S_ISREG(file.lstat().st_mode)):
            return None
        with file.open("rb") as stream:
            found = _MARK.fullmatch(stream.read(100))
    except (OSError, ValueError):
        return None
    return found[1].decode() if found else None


def refuse_foreign(output: Path) -> None:
    """Refuse an output beside which somebody else's folder has a name that is wanted here.

    Raises:
        OutputExistsError: there is one, without the marker, or of another user; it stays as it is.
    """
    for folder in (partial_of(output), output.with_name(f"{output.name}.replaced")):
        if os.path.lexists(folder) and marker_of(folder) is None:
            raise OutputExistsError(
                f"{folder} does not carry qtoolkit's marker, so it is left as it is: "
                "rename it if you need what it holds (an older version's journal, or the model that it replaced), "
                "or name another output"
            )
        state = state_of(folder)
        if state is not None:
            _refuse_others(folder, state)


def put_back(output: Path) -> None:
    """Give a model its name back whose replacement was stopped between two renames, unless a job works there."""
    try:
        output = Path(os.path.abspath(output))  # noqa: PTH100  # as written, also where it leads nowhere
    except FileNotFoundError:  # the current folder was removed, and all that was in it
        return
    if not output.name or os.path.lexists(output) or marker_of(partial_of(output)) is None:
        return
    # Where it cannot be put back, what is then wanted of it says that it is not there.
    with suppress(OSError), _locked(output) as partial:
        if partial is not None:
            partial.put_back()


@contextmanager
def owned(output: Path) -> Iterator[Partial]:
    """Make `OUTPUT.partial`, or take over what an earlier job left, and keep other jobs out until this one ends.

    Windows and some network drives have no locks: there, nothing is refused.

    Raises:
        OutputExistsError: it does not carry our marker, is another user's, or others may write in it.
        OutputError: another job works in it.
    """
    while True:
        refuse_foreign(output)
        if not os.path.lexists(partial_of(output)):
            _make(output)
        with _locked(output) as partial:
            # A job that ended meanwhile may have removed it.
            if partial is not None:
                _remove_stopped(output)
                yield partial
                return


def _make(output: Path) -> None:
    """Make the folder with its marker in it, under another name at first, so that it is never there without one."""
    make_folder(output.parent)
    marker = secrets.token_hex(16)
    folder = output.with_name(_aside(output, marker))
    # This user's alone until it is whole: nobody else may put a journal there. The result in it is made as any folder.
    folder.mkdir(mode=_PRIVATE)
    try:
        write_whole(folder / MARKER, f"qtoolkit {marker}\n".encode())
        rename_new(folder, partial_of(output))
    except BaseException as error:
        shutil.rmtree(folder, ignore_errors=True)
        # Another job may have made it meanwhile, and removed this one as left over.
        if not (isinstance(error, OSError) and os.path.lexists(partial_of(output))):
            raise
    else:
        sync_folder(output.parent)


def _remove_stopped(output: Path) -> None:
    """Remove what stayed where a job was killed while it made or removed the folder: one with a marker alone."""
    # What cannot be removed is in nobody's way.
    with suppress(OSError), os.scandir(output.parent) as entries:
        for folder in [Path(entry.path) for entry in entries if entry.name.startswith(f".{output.name}-")]:
            marker = marker_of(folder)
            if marker and folder.name == _aside(output, marker) and [*folder.iterdir()] == [folder / MARKER]:
                shutil.rmtree(folder)


def _remove(entry: Path) -> None:
    try:
        shutil.rmtree(entry) if is_folder(entry) else entry.unlink()
    except OSError as error:
        raise OutputError(
            f"{entry}, which an earlier job left, cannot be removed ({error.strerror or oneline(error)}): "
            "remove it yourself, or name another output"
        ) from error


def _aside(output: Path, marker: str) -> str:
    return f".{output.name}-{marker[:8]}"


@contextmanager
def _locked(output: Path) -> Iterator[Partial | None]:
    """Lock the folder; None where it is gone, or another one by then.

    Raises:
        OutputExistsError: it is somebody else's, or others may write in it.
        OutputError: another job works in it.
    """
    folder = partial_of(output)
    with open_folder(folder) as opened:
        state = state_of(folder) if opened is None else os.fstat(opened)
        if state is not None:
            _refuse_others(folder, state)
        if opened is not None:
            _lock(opened, folder)
        marker = marker_of(folder)
        if marker is None or state is None or not is_at(state, folder):
            yield None
        else:
            yield Partial(output, folder, marker, state)


def _refuse_others(folder: Path, state: os.stat_result) -> None:
    """Refuse a folder that another user made, or may write in: what lies there would become the result.

    It is compared with one that is made beside it, since a drive may name users and permissions in its own way.

    Raises:
        OutputExistsError: it is one.
    """
    with TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as beside:
        ours = Path(beside).stat()
    if state.st_uid != ours.st_uid:
        raise OutputExistsError(
            f"{folder} belongs to another user (id {state.st_uid}, and this one is {ours.st_uid}), so it is left as it "
            "is: name another output"
        )
    if state.st_mode & ~ours.st_mode & _OTHERS_WRITE:
        raise OutputExistsError(
            f"{folder} can be written by other users, so it is left as it is: "
            "rename it, or, if nobody else wrote there, `chmod go-w` it and call that again"
        )


@contextmanager
def open_folder(folder: Path) -> Iterator[int | None]:
    """Hold a folder open, so that no other one gets its inode; None where there is none, but perhaps a link to one.

    On Windows, which opens no folders, None too.
    """
    opened = None
    if os.name != "nt":
        with suppress(FileNotFoundError, NotADirectoryError):
            opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        yield opened
    finally:
        if opened is not None:
            os.close(opened)


def _lock(opened: int, folder: Path) -> None:
    import fcntl  # Windows has none

    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise OutputError(f"another job is writing {folder}: wait until it ends, or name another output") from None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise


def state_of(folder: Path) -> os.stat_result | None:
    """Device and inode of what stands at a path, a link not followed; None where nothing does."""
    with suppress(FileNotFoundError):
        return folder.lstat()
    return None


def is_at(state: os.stat_result, folder: Path) -> bool:
    """Whether the folder of this device and inode stands at a path."""
    found = state_of(folder)
    return found is not None and os.path.samestat(state, found)


def is_folder(path: Path) -> bool:
    """Whether a path is a folder, and no link to one."""
    return path.is_dir() and not path.is_symlink()
