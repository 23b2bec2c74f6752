"""Manage `OUTPUT.partial`, the folder in which a result is made: marked as qtoolkit's, and locked by one job.

It holds a marker file with a random id; `model`, the result until it is complete; `journal`, what an unfinished job has
done; and for a moment `replaced`, the model that was at OUTPUT before, where the system cannot exchange two folders in
one step. A complete result that could not be moved to OUTPUT is called `result`.
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
        output: the folder of the result.
        folder: the folder beside it, `OUTPUT.partial`.
        marker: the id in its marker file.
        state: its device and inode, which identify it while it is locked.
    """

    output: Path
    folder: Path
    marker: str
    state: os.stat_result

    @property
    def model(self) -> Path:
        """Return the folder of the result until it is complete."""
        return self.folder / "model"

    @property
    def journal(self) -> Path:
        """Return the folder with what an unfinished job has done."""
        return self.folder / "journal"

    @property
    def replaced(self) -> Path:
        """Return the folder of the model that was at the output, between two renames."""
        return self.folder / "replaced"

    @property
    def result(self) -> Path:
        """Return the folder of a complete result that could not be moved to the output."""
        return self.folder / "result"

    def check(self) -> None:
        """Check that this is still the folder that was locked.

        Raises:
            OutputError: it was removed or replaced meanwhile.
        """
        if not (is_at(self.state, self.folder) and marker_of(self.folder) == self.marker):
            raise OutputError(
                f"{self.folder} was removed or replaced while the job wrote in it: leave it alone, and call that again"
            )

    def put_back(self) -> None:
        """Undo a replacement that was stopped between its two renames."""
        # Without `model`, the second rename was done, and the model that was there before is not wanted any more.
        if is_folder(self.replaced) and is_folder(self.model) and not os.path.lexists(self.output):
            rename_new(self.replaced, self.output)
            sync_folder(self.output.parent)

    def clear(self, *, keep_journal: bool) -> None:
        """Remove everything in the folder but its marker and, with `keep_journal`, a journal with finished blocks.

        Raises:
            OutputError: something in it cannot be removed.
        """
        kept = keep_journal and is_folder(self.journal) and any(self.journal.glob("block-*.json"))
        for entry in self.folder.iterdir():
            if entry.name != MARKER and not (kept and entry == self.journal):
                _remove(entry)

    def remove(self) -> None:
        """Remove the folder so that it never exists without its marker under this name."""
        self.clear(keep_journal=False)
        last = self.folder.with_name(_aside(self.output, self.marker))
        rename_new(self.folder, last)
        sync_folder(last.parent)
        shutil.rmtree(last)


def partial_of(output: Path) -> Path:
    """Return the folder in which the result for an output is made."""
    # Not `with_name`, which raises for the root of a disk.
    return output.parent / f"{output.name}.partial"


def marker_of(folder: Path) -> str | None:
    """Return the id in a folder's marker file; None if it is no folder of qtoolkit's, or a link."""
    file = folder / MARKER
    try:
        if not (is_folder(folder) and stat.S_ISREG(file.lstat().st_mode)):
            return None
        with file.open("rb") as stream:
            match = _MARK.fullmatch(stream.read(100))
    except (OSError, ValueError):
        return None
    return match[1].decode() if match else None


def refuse_foreign(output: Path) -> None:
    """Refuse an output beside which somebody else's folder has a name that the job needs.

    Raises:
        OutputExistsError: such a folder has no marker, or belongs to another user; it is not changed.
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
    """Rename a model back whose replacement was stopped between two renames, unless a job is running there."""
    try:
        output = Path(os.path.abspath(output))  # noqa: PTH100  # as written, also where it leads nowhere
    except FileNotFoundError:  # the current folder was removed, and all that was in it
        return
    if not output.name or os.path.lexists(output) or marker_of(partial_of(output)) is None:
        return
    # If it cannot be renamed back, whoever opens the model next reports that it does not exist.
    with suppress(OSError), _locked(output) as partial:
        if partial is not None:
            partial.put_back()


@contextmanager
def owned(output: Path) -> Iterator[Partial]:
    """Make `OUTPUT.partial`, or take over one that an earlier job left, and lock it for the block.

    Windows and some network drives have no locks: there, other jobs are not kept out.

    Raises:
        OutputExistsError: the folder has no marker of ours, belongs to another user, or others may write in it.
        OutputError: another job is using it.
    """
    while True:
        refuse_foreign(output)
        if not os.path.lexists(partial_of(output)):
            _make(output)
        with _locked(output) as partial:
            # None: a job that ended meanwhile removed it.
            if partial is not None:
                _remove_stopped(output)
                yield partial
                return


def _make(output: Path) -> None:
    """Make the folder under another name first and rename it, so that it never exists without its marker."""
    make_folder(output.parent)
    marker = secrets.token_hex(16)
    folder = output.with_name(_aside(output, marker))
    # Private to this user: nobody else may put a journal there. The result in it gets the usual permissions.
    folder.mkdir(mode=_PRIVATE)
    try:
        write_whole(folder / MARKER, f"qtoolkit {marker}\n".encode())
        rename_new(folder, partial_of(output))
    except BaseException as error:
        shutil.rmtree(folder, ignore_errors=True)
        # Another job may have made it meanwhile, and removed this one as a leftover.
        if not (isinstance(error, OSError) and os.path.lexists(partial_of(output))):
            raise
    else:
        sync_folder(output.parent)


def _remove_stopped(output: Path) -> None:
    """Remove folders with nothing but a marker, left by jobs that were killed while they made or removed theirs."""
    # A leftover that cannot be removed does no harm.
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
    """Lock the folder for the block; yield None if it was removed or replaced before it was locked.

    Raises:
        OutputExistsError: it belongs to another user, or others may write in it.
        OutputError: another job is using it.
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
    """Refuse a folder that another user made or may write in, since its files would become part of the result.

    It is compared with a folder made beside it, since a drive may report users and permissions in its own way.

    Raises:
        OutputExistsError: the folder is such a one.
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
    """Hold a folder open for the block, so that no other one gets its inode, and yield its file descriptor.

    Yield None if there is no folder of this name, or a link to one, and on Windows, which cannot open folders.
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
    """Return device and inode of what is at a path, without following a link; None if nothing is."""
    with suppress(FileNotFoundError):
        return folder.lstat()
    return None


def is_at(state: os.stat_result, folder: Path) -> bool:
    """Return whether the folder of this device and inode is at a path."""
    current = state_of(folder)
    return current is not None and os.path.samestat(state, current)


def is_folder(path: Path) -> bool:
    """Return whether a path is a folder and not a link to one."""
    return path.is_dir() and not path.is_symlink()
