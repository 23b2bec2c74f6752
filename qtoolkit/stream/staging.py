"""A folder that appears when it is whole: written as `OUTPUT.partial`, renamed at the end."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from qtoolkit.errors import DiskFullError, OutputError, OutputExistsError, QToolkitError, oneline

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_LOCKS = (errno.ENOTSUP, errno.ENOLCK, errno.ENOSYS, errno.EINVAL)


def check_output(output: Path, *, overwrite: bool, unfinished: bool = True) -> None:
    """Refuse, before any work, an output folder that cannot become the result.

    Args:
        output: the folder.
        overwrite: whether it may replace a model that stands there.
        unfinished: whether what an unfinished job left beside it may go, or be gone on with.

    Raises:
        OutputExistsError: it exists and `overwrite` is false, it is no folder, it holds something else than a model, or
            an unfinished job stands beside it and may not go.
        OutputError: no folder can be made there.
    """
    try:
        if os.path.ismount(output):
            raise OutputExistsError(f"{output} is a mount point, which cannot be renamed: name a folder inside it")
        _recover(output)
        if output.is_symlink() or (output.exists() and not output.is_dir()):
            raise OutputExistsError(f"{output} is not a folder: name another output")
        if output.exists() and any(output.iterdir()):
            if not (output / "config.json").is_file():
                raise OutputExistsError(
                    f"{output} exists: name another output (it holds no model, so it is never replaced)"
                )
            if not overwrite:
                raise OutputExistsError(f"{output} exists: name another output, or give overwrite=True to replace it")
        if not unfinished and journal_of(output).exists():
            raise OutputExistsError(
                f"{_partial(output)} holds an unfinished job: "
                "call that again to finish it, or give resume=False to drop it"
            )
        parent = next(folder for folder in output.absolute().parents if os.path.lexists(folder))
        # As long as the longest name that will be made.
        with TemporaryDirectory(prefix=f".{output.name}-", dir=parent):
            pass
    except OSError as error:
        if isinstance(error, QToolkitError):
            raise
        raise OutputError(f"{output} cannot be written ({error.strerror}): name another output") from error


@contextmanager
def staged(output: Path, *, resume: bool = False) -> Iterator[Path]:
    """The folder `OUTPUT.partial`, empty, which becomes `OUTPUT` when the block ends well and goes when it does not.

    A journal in it (`journal_of`) stays when the block does not end well, and is there again the next time with
    `resume`; it goes when the block ends well.

    What stood at `OUTPUT` before stays until the new result is whole. It is called `OUTPUT.replaced` for the moment
    between two renames; a process that is killed in this moment leaves it so, and the next call gives it its name back.

    Raises:
        DiskFullError: the disk filled up while the block wrote.
        OutputError: it cannot be written for another reason.
    """
    partial = _partial(output)
    made = [folder for folder in partial.parents if not folder.exists()]
    try:
        with _owned(partial):
            placed = False
            try:
                _recover(output)
                _empty(partial, keep_journal=resume)
                yield partial
                _clear_journal(output)
                _put_in_place(partial, output)
                placed = True
            finally:
                _recover(output)
                # Once it is in its place, a folder of this name is another job's.
                if not placed:
                    _clear(partial)
    except OSError as error:
        if isinstance(error, QToolkitError):
            raise
        what = f"{output} cannot be written ({error.strerror or oneline(error)})"
        if error.errno in _NO_ROOM:
            raise DiskFullError(f"{what}: free some room, or name an output on another disk") from error
        raise OutputError(f"{what}: check its permissions, or name another output") from error
    finally:
        for folder in made:
            # Only an empty one goes, so none once the result stands in it.
            with suppress(OSError):
                folder.rmdir()


@contextmanager
def _owned(partial: Path) -> Iterator[None]:
    """Make a folder, or take over what an earlier job left, and keep other jobs out until this one ends in any way.

    Windows and some network drives have no such locks: there, nothing is refused.

    Raises:
        OutputError: another job works in it.
    """
    try:
        import fcntl
    except ImportError:
        partial.mkdir(parents=True, exist_ok=True)
        yield
        return
    while True:
        partial.mkdir(parents=True, exist_ok=True)
        folder = os.open(partial, os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(folder)
            raise OutputError(f"another job is writing {partial}: wait until it ends, or name another output") from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                os.close(folder)
                raise
        # A job that ended meanwhile may have renamed it, or removed it.
        with suppress(FileNotFoundError):
            if os.fstat(folder).st_ino == partial.stat().st_ino:
                break
        os.close(folder)
    try:
        yield
    finally:
        os.close(folder)


def journal_of(output: Path) -> Path:
    """Where a job that makes `output` keeps what it has done."""
    return _partial(output) / "journal"


def _partial(output: Path) -> Path:
    return output.with_name(f"{output.name}.partial")


def _empty(partial: Path, *, keep_journal: bool) -> None:
    """Remove what an earlier job left, but for a journal that holds a block, where it is wanted."""
    journal = partial / "journal"
    kept = keep_journal and any(journal.glob("block-*.json"))
    for entry in partial.iterdir():
        if not (kept and entry == journal):
            shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()


def _clear(partial: Path) -> None:
    """Remove what this job left, but for a journal that holds a block."""
    if any((partial / "journal").glob("block-*.json")):
        _empty(partial, keep_journal=True)
    else:
        shutil.rmtree(partial, ignore_errors=True)


def _clear_journal(output: Path) -> None:
    shutil.rmtree(journal_of(output), ignore_errors=True)


def _put_in_place(partial: Path, output: Path) -> None:
    replaced = _replaced(output)
    shutil.rmtree(replaced, ignore_errors=True)
    if output.exists():
        output.rename(replaced)
    partial.rename(output)
    shutil.rmtree(replaced, ignore_errors=True)


def _recover(output: Path) -> None:
    """Undo a replacement that was stopped between its two renames."""
    if _replaced(output).is_dir() and not output.exists():
        _replaced(output).rename(output)


def _replaced(output: Path) -> Path:
    return output.with_name(f"{output.name}.replaced")
