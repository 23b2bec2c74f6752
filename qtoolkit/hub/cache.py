"""The local Hub cache: what is whole in it, and which commit a branch stood at.

Its layout is documented (huggingface_hub, "Understand caching"): `models--org--name/` with `blobs/<etag>`,
`snapshots/<commit>/<file>` that point to blobs, and `refs/<revision>` that hold a commit.
"""

import contextlib
import os
from pathlib import Path

from huggingface_hub import constants

from qtoolkit.checkpoints.filenames import INDEX_FILE
from qtoolkit.checkpoints.folder import named_file
from qtoolkit.checkpoints.hub_names import is_commit_hash
from qtoolkit.errors import SourceError
from qtoolkit.files import absolute, make_folder, write_whole
from qtoolkit.hub.repository_files import indexed_files, weight_files


def cache_folder() -> Path:
    """The local Hub cache, whether it is there or not."""
    return absolute(constants.HF_HUB_CACHE)


def repo_folder(repo_id: str) -> Path:
    """Where the cache keeps a model, whether it is there or not."""
    return cache_folder() / f"models--{repo_id.replace('/', '--')}"


def snapshot_folder(repo_id: str, commit_hash: str) -> Path:
    """Where the cache keeps the files of one commit."""
    return repo_folder(repo_id) / "snapshots" / commit_hash


def cached_commit(repo_id: str, revision: str | None) -> str | None:
    """The commit that a revision stood at when it was last downloaded; None when it never was."""
    if is_commit_hash(revision):
        return revision
    ref = repo_folder(repo_id) / "refs" / (revision or constants.DEFAULT_REVISION)
    # os.path, since Path raises on a name that is too long.
    commit_hash = ref.read_text(encoding="utf-8").strip() if os.path.isfile(ref) else ""  # noqa: PTH113
    return commit_hash if is_commit_hash(commit_hash) else None


def remember_commit(repo_id: str, revision: str | None, commit_hash: str) -> None:
    """Note which commit a revision stands at, so that it is found without a network."""
    if cached_commit(repo_id, revision) == commit_hash:
        return
    ref = repo_folder(repo_id) / "refs" / (revision or constants.DEFAULT_REVISION)
    # A cache that cannot be written still serves the commit by its hash.
    with contextlib.suppress(OSError):
        make_folder(ref.parent)
        write_whole(ref, commit_hash.encode())


def is_whole(snapshot: Path) -> bool:
    """Whether a snapshot has its config and all of its weights; a name whose blob is not there does not count.

    A weight file that a GPTQ config names is all of them, whatever an index beside it names.
    """
    names = [file.name for file in snapshot.iterdir() if file.is_file()] if snapshot.is_dir() else []
    if "config.json" not in names:
        return False
    if named_file(snapshot, names) is not None:
        return True
    if INDEX_FILE not in names:
        return bool(weight_files(names))
    try:
        return set(indexed_files(snapshot / INDEX_FILE)) <= set(names)
    except SourceError:
        return False


def local_models() -> tuple[str, ...]:
    """Ids of the models that are whole in the local Hub cache, sorted; asks no network and reads no weights."""
    folders = cache_folder().glob("models--*")
    names = sorted(folder.name.removeprefix("models--").replace("--", "/") for folder in folders)
    return tuple(name for name in names if whole_snapshot(name))


def whole_snapshot(repo_id: str) -> Path | None:
    """The folder of a model that is whole in the local Hub cache, of the default branch where that is; None without."""
    commit_hash = cached_commit(repo_id, None)
    snapshots = sorted(
        repo_folder(repo_id).glob("snapshots/*"), key=lambda folder: (folder.name != commit_hash, folder.name)
    )
    return next((snapshot for snapshot in snapshots if is_whole(snapshot)), None)
