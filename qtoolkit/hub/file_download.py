"""One file of one commit, downloaded into the local Hub cache, and found there where it belongs."""

import os
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download

from qtoolkit.errors import CheckpointError
from qtoolkit.hub.cache import repo_folder, snapshot_folder
from qtoolkit.hub.checked_bytes import remove_cached
from qtoolkit.hub.hub_errors import HubModel, translated


def download_file(model: HubModel, commit_hash: str, name: str, *, again: bool = False, **options: Any) -> Path:
    """Download a file into the local Hub cache, or find it there, and return where it is.

    huggingface_hub names what it writes by what the answer says: a file of another commit lands in that commit's
    folder, and one whose ETag is a path lands there.

    Args:
        model: the repository and the token.
        commit_hash: the commit of which it is taken.
        name: what it is called there.
        again: download it also where the cache holds it.
        options: as `hf_hub_download` takes them.

    Raises:
        SourceError: the Hub does not hand it out, or answers with a file of another commit, or with none.
        CheckpointError: it was put outside of the cache.
        OutputError: the cache cannot be written.
    """
    place = snapshot_folder(model.repo_id, commit_hash) / name
    with translated(model):
        if place.is_file() and not again:
            return place
        # A folder in its place, as an empty ETag leaves it, would be taken for the file.
        if os.path.lexists(place) and not place.is_file():
            remove_cached(place)
        hf_hub_download(model.repo_id, name, revision=commit_hash, token=model.token, force_download=again, **options)
        if not place.is_file():
            if os.path.lexists(place):
                remove_cached(place)
            raise ValueError(f"no file of commit {commit_hash[:12]} came for {name}")
        _refuse_outside(place, model)
    return place


def _refuse_outside(place: Path, model: HubModel) -> None:
    """Refuse a file that was just downloaded to where the cache keeps none.

    Raises:
        CheckpointError: it is a link out of the cache; the link is removed.
    """
    if not place.is_symlink():
        return
    # Only its first step: a blob itself may be a link to a larger disk.
    target = place.parent / place.readlink()
    if target.parent.resolve() != (repo_folder(model.repo_id) / "blobs").resolve():
        place.unlink()
        raise CheckpointError(
            f"the answer for {place.name} of {model.repo_id} let huggingface_hub write {target.resolve()}, outside of "
            "its cache: look at that file, and name another HF_ENDPOINT"
        )
