"""Write a result into `OUTPUT.partial`, and rename it to `OUTPUT` once it is complete and on the disk."""

import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from qtoolkit.errors import DiskFullError, OutputError, OutputExistsError, QToolkitError, oneline
from qtoolkit.files import exchange, rename_new, sync_folder, sync_tree
from qtoolkit.models.output_checks import refuse_hub_cache
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
from qtoolkit.stream.existing_output import ExistingOutput, find_existing

_DISK_FULL_ADVICE = {
    errno.ENOSPC: "free some room, or name an output on another disk",
    errno.EDQUOT: "free some room, or name an output on another disk",
    errno.EFBIG: "raise `ulimit -f`, or name an output on a disk that takes larger files",
}
_DISK_FAILS = (errno.EIO, errno.ENODEV, errno.ESTALE)
_NOT_EMPTY = (errno.ENOTEMPTY, errno.EEXIST)


def check_output(output: Path, *, overwrite: bool, unfinished: bool = True) -> None:
    """Refuse, before any work, an output folder to which the result cannot be written.

    Args:
        output: the folder.
        overwrite: whether the result may replace a model there.
        unfinished: whether the job may resume or remove the work that an unfinished job left in `OUTPUT.partial`.

    Raises:
        OutputExistsError: it exists and `overwrite` is false, it is not a folder, it holds something other than a
            model, it holds a finished or unfinished job that may not be removed, a folder of another program has a
            name that the job needs, or it lies in the Hub's cache or in the folder of another job.
        OutputError: no folder can be created there.
    """
    with _translated(output, "name another output"):
        if os.path.ismount(output):
            raise OutputExistsError(f"{output} is a mount point, which cannot be renamed: name a folder inside it")
        _refuse_path(output)
        put_back(output)
        find_existing(output, overwrite=overwrite)
        refuse_foreign(output)
        _refuse_result(output)
        if not unfinished and journal_of(output).exists():
            raise OutputExistsError(
                f"{partial_of(output)} holds an unfinished job: "
                "call that again to finish it, or give resume=False to drop it"
            )
        parent = next(folder for folder in output.absolute().parents if os.path.lexists(folder))
        # Its name is as long as the longest that will be needed.
        trial = parent / f".{output.name}-{secrets.token_hex(4)}"
        trial.mkdir()
        trial.rmdir()


def _refuse_path(output: Path) -> None:
    """Refuse a path that is not usable for a model.

    Raises:
        OutputError: its name is "..", or not valid UTF-8.
        OutputExistsError: it lies in the Hub's cache, or in the folder of another job.
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
    """Yield an empty folder in `OUTPUT.partial`; it is renamed to `OUTPUT` if the block succeeds, otherwise removed.

    A journal beside it (`journal_of`) stays if the block fails, and is available again at the next call with `resume`;
    it is removed once the block has succeeded and its result is at `OUTPUT`.

    All files are on the disk before the folder is renamed, and its new name is on the disk before anything else is
    removed. With `overwrite`, the model that exists at `OUTPUT` at the beginning, if it is unchanged, is exchanged with
    the result in one step. If the system cannot do that, it is in `OUTPUT.partial` for the moment between two renames;
    if the process is killed then, the next call that names `OUTPUT` gives it its name back.

    Raises:
        OutputExistsError: something exists there that may not be replaced. If it appeared while the block ran, it is
            not changed; the result is kept elsewhere then, and the message says where.
        DiskFullError: the disk filled up while the block wrote.
        OutputError: the output cannot be written for another reason.
    """
    new_parents = [folder for folder in output.parents if not folder.exists()]
    try:
        with _translated(output, "check its permissions, or name another output"), open_folder(output) as opened:
            existing = find_existing(output, overwrite=overwrite, opened=opened)
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
                    _put_in_place(partial, existing)
                    placed = True
                finally:
                    if not placed:
                        _clean_up(partial)
                _confirm(partial)
                # The result is complete; what cannot be removed now is removed by the next job.
                with suppress(OSError):
                    partial.remove()
    finally:
        for folder in new_parents:
            # Removes only empty folders, so none that contains the result.
            with suppress(OSError):
                folder.rmdir()


@contextmanager
def _new_folder(folder: Path) -> Iterator[None]:
    """Create a folder, and check at the end of a `with` block that it still exists.

    Raises:
        OutputError: it was removed meanwhile, even if another one has its name now.
    """
    folder.mkdir()
    with open_folder(folder) as opened:
        state = folder.lstat() if opened is None else os.fstat(opened)
        yield
        if not is_at(state, folder):
            raise OutputError(f"{folder} was removed while it was written: leave it alone, and call that again")


def journal_of(output: Path) -> Path:
    """Return the folder in which a job with this output stores its completed blocks."""
    return partial_of(output) / "journal"


@contextmanager
def _translated(output: Path, advice: str) -> Iterator[None]:
    """Turn an error of the operating system into one of ours that says what to do.

    Raises:
        DiskFullError: the disk is full, or the file larger than allowed.
        OutputError: any other error.
    """
    try:
        yield
    except OSError as error:
        if isinstance(error, QToolkitError):
            raise
        what = f"{output} cannot be written ({error.strerror or oneline(error)})"
        if error.errno in _DISK_FULL_ADVICE:
            has_blocks = any(journal_of(output).glob("block-*.json"))
            resume = "; blocks that are done are kept, and the same call goes on with them" if has_blocks else ""
            raise DiskFullError(f"{what}: {_DISK_FULL_ADVICE[error.errno]}{resume}") from error
        if error.errno in _DISK_FAILS:
            raise OutputError(f"{what}: the disk fails or has gone, name an output on another") from error
        raise OutputError(f"{what}: {advice}") from error


def _refuse_result(output: Path) -> None:
    """Refuse to start a job while an earlier result waits in `OUTPUT.partial` to be moved by the user."""
    result = partial_of(output) / "result"
    if os.path.lexists(result):
        raise OutputExistsError(f"{result} is a result that could not take its place: move it to where you want it")


def _put_in_place(partial: Partial, existing: ExistingOutput | None) -> None:
    """Rename the result to the output; the folder that it replaces is in `partial` afterwards.

    Raises:
        OutputExistsError: something else exists there by now. The result is kept.
    """
    model = partial.model
    output = partial.output
    try:
        if existing is not None and is_at(existing.state, output):
            if existing.content:
                _replace(partial, existing)
                return
            output.rmdir()
        rename_new(model, output)
    except OSError as error:
        # A replacement that stopped half-way is undone, and the result is kept, unless that fails too.
        with suppress(OSError):
            partial.put_back()
            rename_new(model, partial.result)
        if not is_folder(partial.result):
            raise
        reason = (
            "is not what it was when the job began, so it is left as it is"
            if error.errno in _NOT_EMPTY
            else f"cannot be replaced ({error.strerror or oneline(error)})"
        )
        moved = f", and what stood there before in {partial.replaced}" if is_folder(partial.replaced) else ""
        raise OutputExistsError(
            f"{output} {reason}: the result is whole in {partial.result}{moved}: move it to where you want it"
        ) from error


def _replace(partial: Partial, existing: ExistingOutput) -> None:
    """Exchange the result with the folder at the output.

    Raises:
        FileExistsError: another folder exists there by now, or something was added to that one or changed in it.
    """
    model = partial.model
    output = partial.output
    changed = FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(output))
    if exchange(model, output):
        if not existing.is_at(model):
            exchange(model, output)
            raise changed
        return
    rename_new(output, partial.replaced)
    if not existing.is_at(partial.replaced):
        rename_new(partial.replaced, output)
        raise changed
    # Otherwise a power failure could undo the first rename alone.
    _sync_names(partial)
    rename_new(model, output)


def _confirm(partial: Partial) -> None:
    """Wait until a result's new name is on the disk.

    Raises:
        OutputError: the disk does not confirm it; the result is at the output, and the model that it replaced is kept.
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
    """Wait until the names in `OUTPUT.partial` and in the output's parent folder are on the disk."""
    sync_folder(partial.folder)
    sync_folder(partial.output.parent)


def _clean_up(partial: Partial) -> None:
    """Remove the files of a failed job, but keep a journal that holds a block, and a complete result."""
    # Errors here are ignored: the error that ended the job is the one to report.
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
