"""A folder that appears when it is whole: made in `OUTPUT.partial`, on the disk before it is renamed."""

import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from qtoolkit.errors import DiskFullError, OutputError, OutputExistsError, QToolkitError, oneline
from qtoolkit.files import exchange, rename_new, sync_folder, sync_tree
from qtoolkit.models import refuse_hub_cache
from qtoolkit.partial import (
    Partial,
    is_at,
    is_folder,
    marker_of,
    open_folder,
    owned,
    partial_of,
    put_back,
    refuse_foreign,
)
from qtoolkit.stream.standing import Standing, find_standing

_NO_ROOM = {
    errno.ENOSPC: "free some room, or name an output on another disk",
    errno.EDQUOT: "free some room, or name an output on another disk",
    errno.EFBIG: "raise `ulimit -f`, or name an output on a disk that takes larger files",
}
_FAILING = (errno.EIO, errno.ENODEV, errno.ESTALE)
_NOT_EMPTY = (errno.ENOTEMPTY, errno.EEXIST)


def check_output(output: Path, *, overwrite: bool, unfinished: bool = True) -> None:
    """Refuse, before any work, an output folder that cannot become the result.

    Args:
        output: the folder.
        overwrite: whether it may replace a model that stands there.
        unfinished: whether what an unfinished job left beside it may go, or be gone on with.

    Raises:
        OutputExistsError: it exists and `overwrite` is false, it is no folder, it holds something else than a model, a
            finished or unfinished job stands beside it and may not go, somebody else's folder stands at a name that the
            job needs, or it lies where others keep what is theirs: in the Hub's cache, or in another job's folder.
        OutputError: no folder can be made there.
    """
    with _translated(output, "name another output"):
        if os.path.ismount(output):
            raise OutputExistsError(f"{output} is a mount point, which cannot be renamed: name a folder inside it")
        _refuse_place(output)
        put_back(output)
        find_standing(output, overwrite=overwrite)
        refuse_foreign(output)
        _refuse_result(output)
        if not unfinished and journal_of(output).exists():
            raise OutputExistsError(
                f"{partial_of(output)} holds an unfinished job: "
                "call that again to finish it, or give resume=False to drop it"
            )
        parent = next(folder for folder in output.absolute().parents if os.path.lexists(folder))
        # As long as the longest name that will be made.
        tried = parent / f".{output.name}-{secrets.token_hex(4)}"
        tried.mkdir()
        tried.rmdir()


def _refuse_place(output: Path) -> None:
    """Refuse an output whose name or place is none for a model.

    Raises:
        OutputError: its name is "..", or no text as other programs write it.
        OutputExistsError: it lies where others keep what is theirs.
    """
    if output.name == "..":
        raise OutputError(f"{output} ends in '..': give the folder's own name")
    try:
        str(output).encode()
    except UnicodeEncodeError:
        raise OutputError(f"{output} is not UTF-8, and no tokenizer is saved there: name another output") from None
    refuse_hub_cache(output)
    inside = next((folder for folder in Path(os.path.realpath(output)).parents if marker_of(folder)), None)
    if inside is not None:
        raise OutputExistsError(f"{output} lies in {inside}, in which a job works: name another output")


@contextmanager
def staged(output: Path, *, overwrite: bool = False, resume: bool = False) -> Iterator[Path]:
    """An empty folder in `OUTPUT.partial`, which becomes `OUTPUT` when the block ends well and goes when it does not.

    A journal beside it (`journal_of`) stays when the block does not end well, and is there again the next time with
    `resume`; it goes when the block has ended well and its result is in its place.

    All files are on the disk before the folder is renamed, and its new name is before anything else is removed. With
    `overwrite`, the model that stands at `OUTPUT` when this begins, unchanged, is exchanged with the result in one
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
            standing = find_standing(output, overwrite=overwrite, opened=opened)
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
                _confirm(partial)
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
            kept = any(journal_of(output).glob("block-*.json"))
            goes_on = "; blocks that are done are kept, and the same call goes on with them" if kept else ""
            raise DiskFullError(f"{what}: {_NO_ROOM[error.errno]}{goes_on}") from error
        if error.errno in _FAILING:
            raise OutputError(f"{what}: the disk fails or has gone, name an output on another") from error
        raise OutputError(f"{what}: {advice}") from error


def _refuse_result(output: Path) -> None:
    result = partial_of(output) / "result"
    if os.path.lexists(result):
        raise OutputExistsError(f"{result} is a result that could not take its place: move it to where you want it")


def _put_in_place(partial: Partial, standing: Standing | None) -> None:
    """Let the result stand at the output; what it replaces is in `partial` then.

    Raises:
        OutputExistsError: something else stands there by now. The result is kept.
    """
    model, output = partial.model, partial.output
    try:
        if standing is not None and is_at(standing.state, output):
            if not standing.is_empty:
                _replace(partial, standing)
                return
            output.rmdir()
        rename_new(model, output)
    except OSError as error:
        # A replacement that stopped half-way is undone, and the result kept, unless that fails too.
        with suppress(OSError):
            partial.put_back()
            rename_new(model, partial.result)
        if not is_folder(partial.result):
            raise
        why = (
            "is not what it was when the job began, so it is left as it is"
            if error.errno in _NOT_EMPTY
            else f"cannot be replaced ({error.strerror or oneline(error)})"
        )
        moved = f", and what stood there before in {partial.replaced}" if is_folder(partial.replaced) else ""
        raise OutputExistsError(
            f"{output} {why}: the result is whole in {partial.result}{moved}: move it to where you want it"
        ) from error


def _replace(partial: Partial, standing: Standing) -> None:
    """Let the result and the folder at the output change places.

    Raises:
        FileExistsError: another folder stands there by now, or something was put into that one or changed in it.
    """
    model, output = partial.model, partial.output
    if exchange(model, output):
        if not standing.is_at(model):
            exchange(model, output)
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(output))
        return
    rename_new(output, partial.replaced)
    if not standing.is_at(partial.replaced):
        rename_new(partial.replaced, output)
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(output))
    # Otherwise a power failure could undo the first rename alone.
    _sync_names(partial)
    rename_new(model, output)


def _confirm(partial: Partial) -> None:
    """Wait until a result's new name is on the disk.

    Raises:
        OutputError: the disk does not say so; the result stands there, and what it replaced is kept.
    """
    try:
        _sync_names(partial)
    except OSError as error:
        kept = [folder for folder in (partial.model, partial.replaced) if is_folder(folder)]
        before = f"; what stood there before is in {kept[0]} until the next job" if kept else ""
        raise OutputError(
            f"{partial.output} is written and whole, but the disk does not confirm it "
            f"({error.strerror or oneline(error)}){before}: run `sync`, or save it on another disk as well"
        ) from error


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
