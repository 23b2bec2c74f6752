"""Download one file of one commit into the local Hub cache, and refuse one that is too long or lands elsewhere."""

import os
import threading
from pathlib import Path

from huggingface_hub import hf_hub_download
from huggingface_hub.utils import silent_tqdm  # type: ignore[attr-defined]

from qtoolkit.errors import CheckpointError
from qtoolkit.hub.cache import repo_folder, snapshot_folder
from qtoolkit.hub.checked_bytes import OnBytes, ignore_bytes, remove_cached
from qtoolkit.hub.hub_errors import HubModel, translated
from qtoolkit.units import format_bytes

# A short page in place of a small file is accepted here: later comparisons of commit and hash explain it better.
_MAX_PAGE = 1_000_000


def download_file(
    model: HubModel,
    commit_hash: str,
    name: str,
    *,
    max_bytes: int | None,
    on_bytes: OnBytes = ignore_bytes,
    again: bool = False,
) -> Path:
    """Download a file into the local Hub cache unless it is cached already, and return its path there.

    huggingface_hub names what it writes by what the answer says: a file of another commit lands in that commit's
    folder, and one whose ETag is a path lands there.

    Args:
        model: the repository and the token.
        commit_hash: the commit of which it is taken.
        name: its name in the repository.
        max_bytes: its size in the Hub's listing, after which the download ends; None if the Hub lists no size.
        on_bytes: called with the bytes so far, also from threads of hf_xet, where what it raises is only printed.
        again: download it also if it is cached.

    Raises:
        SourceError: the Hub does not hand it out, or answers with a file of another commit, with none, or with one much
            longer than it lists.
        CheckpointError: it was written outside of the cache.
        OutputError: the cache cannot be written.
    """
    file = snapshot_folder(model.repo_id, commit_hash) / name
    with translated(model):
        if file.is_file() and not again:
            return file
        # A folder of that name, as an empty ETag leaves it, would be taken for the file.
        if os.path.lexists(file) and not file.is_file():
            remove_cached(file)
        hf_hub_download(
            model.repo_id,
            name,
            revision=commit_hash,
            token=model.token,
            force_download=again,
            tqdm_class=byte_counter(f"{name} of {model.repo_id}", max_bytes, on_bytes),
        )
        if not file.is_file():
            if os.path.lexists(file):
                remove_cached(file)
            raise ValueError(f"no file of commit {commit_hash[:12]} came for {name}")
        _refuse_outside(file, model)
    return file


def byte_counter(name: str, max_bytes: int | None, on_bytes: OnBytes = ignore_bytes) -> type[silent_tqdm]:
    """Return a class to give to huggingface_hub as `tqdm_class`, which draws nothing and limits a file's length.

    Args:
        name: the file, for the error.
        max_bytes: its size in the Hub's listing; None for no limit.
        on_bytes: called with the bytes so far.

    The class raises ValueError in `update` when much more comes.
    """
    worker = threading.current_thread()

    class ByteCounter(silent_tqdm):
        """Count the bytes of one download.

        hf_xet writes in large blocks, long after their bytes came over the network (`update_transfer`): the larger
        count is the better one. For a class without `update_transfer`, hub 1.27 draws a bar of its own.
        """

        written = transferred = 0

        def update(self, n: float | None = 1) -> None:
            self.written += int(n or 0)
            # hf_xet, which calls from other threads, never writes more than the file's size.
            if max_bytes is not None and self.written > max_bytes + _MAX_PAGE and threading.current_thread() is worker:
                raise ValueError(f"more bytes came for {name} than the {format_bytes(max_bytes)} in its listing")
            on_bytes(max(self.written, self.transferred))

        def update_transfer(self, n: float | None = 1) -> None:
            self.transferred += int(n or 0)
            on_bytes(max(self.written, self.transferred))

        def set_postfix_str(self, *_text: str, **_options: bool) -> None:
            """Draw nothing."""

        set_transfer_postfix_str = close = set_postfix_str

    return ByteCounter


def _refuse_outside(file: Path, model: HubModel) -> None:
    """Refuse a downloaded file that huggingface_hub wrote outside of the model's folder of blobs.

    Raises:
        CheckpointError: it is a link out of the cache; the link is removed.
    """
    if not file.is_symlink():
        return
    # Only the first link is followed: a blob may itself be a link to a larger disk.
    target = file.parent / file.readlink()
    if target.parent.resolve() != (repo_folder(model.repo_id) / "blobs").resolve():
        file.unlink()
        raise CheckpointError(
            f"the answer for {file.name} of {model.repo_id} let huggingface_hub write {target.resolve()}, outside of "
            "its cache: look at that file, and name another HF_ENDPOINT"
        )
