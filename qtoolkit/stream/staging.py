"""A folder that appears when it is whole: made in `OUTPUT.partial`, on the disk before it is renamed."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from qtoolkit.errors import DiskFullError, OutputError, OutputExistsError, QToolkitError, oneline
from qtoolkit.files import exchange, rename_new, sync_folder, sync_tree
from qtoolkit.partial import Partial, is_at, is_folder, open_folder, owned, partial_of, put_back, refuse_foreign

_NO_ROOM = {
    errno.ENOSPC: "free some room, or name an output on another disk",
    errno.EDQUOT: "free some room, or name an output on another disk",
    errno.EFBIG: "raise `ulimit -f`, or name an output on a disk that takes larger files",
}
_NOT_EMPTY = (errno.ENOTEMPTY, errno.EEXIST)


@dataclass(frozen=True)
class _Standing:
    """The folder that stood at an output when the job began; nothing else is ever replaced.

    Attributes:
        state: its device and inode.
        empty: whether it held nothing; it goes only as long as it holds nothing.
    """

    state: os.stat_result
    empty: bool


def check_output(output: Path, *, overwrite: bool, unfinished: bool = True) -> None:
    """Refuse, before any work, an output folder that cannot become the result.

    Args:
        output: the folder.
        overwrite: whether it may replace a model that stands there.
        unfinished: whether what an unfinished job left beside it may go, or be gone on with.

    Raises:
        OutputExistsError: it exists and `overwrite` is false, it is no folder, it holds something else than a model, a
            finished or unfinished job stands beside it and may not go, or somebody else's folder stands at a name that
            the job needs.
        OutputError: no folder can be made there.
    """
    with _translated(output, "name another output"):
        if os.path.ismount(output):
            raise OutputExistsError(f"{output} is a mount point, which cannot be renamed: name a folder inside it")
        put_back(output)
        _find_standing(output, overwrite=overwrite)
        refuse_foreign(output)
        _refuse_result(output)
        if not unfinished and journal_of(output).exists():
            raise OutputExistsError(
                f"{partial_of(output)} holds an unfinished job: "
                "call that again to finish it, or give resume=False to drop it"
            )
        parent = next(folder for folder in output.absolute().parents if os.path.lexists(folder))
        # As long as the longest name that will be made.
        with TemporaryDirectory(prefix=f".{output.name}-", dir=parent):
            pass


@contextmanager
def staged(output: Path, *, overwrite: bool = False, resume: bool = False) -> Iterator[Path]:
    """An empty folder in `OUTPUT.partial`, which becomes `OUTPUT` when the block ends well and goes when it does not.

    A journal beside it (`journal_of`) stays when the block does not end well, and is there again the next time with
    `resume`; it goes when the block has ended well and its result is in its place.

    All files are on the disk before the folder is renamed, and its new name is before anything else is removed. With
    `overwrite`, the model that stands at `OUTPUT` when this begins, and no other, is exchanged with the result in one
    step; where the system cannot, it lies in `OUTPUT.partial` for the moment between two renames, and a process that is
    killed there leaves it so until the next call that names `OUTPUT` gives it its name back.

    Raises:
        OutputExistsError: something stands there that may not be replaced. What appeared while the block ran stays as
            it is; the result is kept then, and the message says where.
        DiskFullError: the disk filled up while the block wrote.
        OutputError: it cannot be written for another reason.
    """
    made = [folder for folder in output.parents if not folder.exists()]
    try:
        with _translated(output, "check its permissions, or name another output"), open_folder(output) as opened:
            standing = _find_standing(output, overwrite=overwrite, opened=opened)
            with owned(output) as partial:
                placed = False
                try:
                    partial.put_back()
                    _refuse_result(output)
                    partial.clear(keep_journal=resume)
                    with _new_folder(partial.model):
                        yield partial.model
                        partial.check()
                    sync_tree(partial.model)
                    sync_folder(partial.folder)
                    _put_in_place(partial, standing)
                    placed = True
                finally:
                    if not placed:
                        _tidy(partial)
                _sync_names(partial)
                # What cannot be removed, the next job removes; the result is in its place.
                with suppress(OSError):
                    partial.remove()
    finally:
        for folder in made:
            # Only an empty one goes, so none once the result stands in it.
            with suppress(OSError):
                folder.rmdir()


@contextmanager
def _new_folder(folder: Path) -> Iterator[None]:
    """Make a folder, and see to it that at the end it is still there.

    Raises:
        OutputError: somebody removed it meanwhile; another one may stand there.
    """
    folder.mkdir()
    with open_folder(folder) as opened:
        made = folder.lstat() if opened is None else os.fstat(opened)
        yield
        if not is_at(made, folder):
            raise OutputError(f"{folder} was removed while it was written: leave it alone, and call that again")


def journal_of(output: Path) -> Path:
    """Where a job that makes `output` keeps what it has done."""
    return partial_of(output) / "journal"


@contextmanager
def _translated(output: Path, advice: str) -> Iterator[None]:
    """What the system refuses, as an error of ours that says what to do."""
    try:
        yield
    except OSError as error:
        if isinstance(error, QToolkitError):
            raise
        what = f"{output} cannot be written ({error.strerror or oneline(error)})"
        if error.errno in _NO_ROOM:
            raise DiskFullError(f"{what}: {_NO_ROOM[error.errno]}") from error
        raise OutputError(f"{what}: {advice}") from error


def _find_standing(output: Path, *, overwrite: bool, opened: int | None = None) -> _Standing | None:
    """The folder that a result may replace; None where there is nothing.

    Args:
        output: where it may stand.
        overwrite: whether it may be a model.
        opened: the folder, held open.

    Raises:
        OutputExistsError: what stands there may not be replaced.
    """
    if not os.path.lexists(output):
        return None
    if not is_folder(output):
        raise OutputExistsError(f"{output} is not a folder: name another output")
    state = output.lstat() if opened is None else os.fstat(opened)
    if not any(output.iterdir()):
        return _Standing(state, empty=True)
    if not (output / "config.json").is_file():
        raise OutputExistsError(f"{output} exists: name another output (it holds no model, so it is never replaced)")
    if not overwrite:
        raise OutputExistsError(f"{output} exists: name another output, or give overwrite=True to replace it")
    return _Standing(state, empty=False)


def _refuse_result(output: Path) -> None:
    result = partial_of(output) / "result"
    if os.path.lexists(result):
        raise OutputExistsError(f"{result} is a result that could not take its place: move it to where you want it")


def _put_in_place(partial: Partial, standing: _Standing | None) -> None:
    """Let the result stand at the output; what it replaces is in `partial` then.

    Raises:
        OutputExistsError: something else stands there by now. The result is kept.
    """
    model, output = partial.model, partial.output
    try:
        if standing is not None and is_at(standing.state, output):
            if not standing.empty:
                _replace(partial, standing)
                return
            output.rmdir()
        rename_new(model, output)
    except OSError as error:
        if error.errno not in _NOT_EMPTY:
            raise
        rename_new(model, partial.result)
        moved = f", and what stood there before in {partial.replaced}" if is_folder(partial.replaced) else ""
        raise OutputExistsError(
            f"{output} is not what it was when the job began, so it is left as it is: "
            f"the result is whole in {partial.result}{moved}: move it to where you want it"
        ) from error


def _replace(partial: Partial, standing: _Standing) -> None:
    """Let the result and the folder at the output change places.

    Raises:
        FileExistsError: another folder stands there by now.
    """
    model, output = partial.model, partial.output
    if exchange(model, output):
        if not is_at(standing.state, model):
            exchange(model, output)
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(output))
        return
    rename_new(output, partial.replaced)
    # Otherwise a power failure could undo the first rename alone.
    _sync_names(partial)
    rename_new(model, output)


def _sync_names(partial: Partial) -> None:
    sync_folder(partial.folder)
    sync_folder(partial.output.parent)


def _tidy(partial: Partial) -> None:
    """Remove what a job left that did not end well, but for a journal that holds a block, or a whole result."""
    # Why the job ended is told, and not that something of it is still there.
    with suppress(OSError):
        partial.check()
        partial.put_back()
        _sync_names(partial)
        if is_folder(partial.result):
            shutil.rmtree(partial.journal, ignore_errors=True)
        elif any(partial.journal.glob("block-*.json")):
            partial.clear(keep_journal=True)
        else:
            partial.remove()
