"""Look into the local Hub cache: which models are complete in it, and which commit a branch pointed to.

Its layout is documented (huggingface_hub, "Understand caching"): `models--org--name/` with `blobs/<etag>`,
`snapshots/<commit>/<file>` that point to blobs, and `refs/<revision>` that hold a commit.
"""

import contextlib
import os
from pathlib import Path

from huggingface_hub import constants

from qtoolkit.checkpoints.hub_names import is_commit_hash
from qtoolkit.errors import SourceError
from qtoolkit.files import absolute, make_folder, write_whole


def cache_folder() -> Path:
    """Return the folder of the local Hub cache, which need not exist."""
    return absolute(constants.HF_HUB_CACHE)


def repo_folder(repo_id: str) -> Path:
    """Return the folder in which the cache stores a model; it need not exist."""
    return cache_folder() / f"models--{repo_id.replace('/', '--')}"


def snapshot_folder(repo_id: str, commit_hash: str) -> Path:
    """Return the folder in which the cache stores the files of one commit; it need not exist."""
    return repo_folder(repo_id) / "snapshots" / commit_hash


def _ref_file(repo_id: str, revision: str | None) -> Path:
    """Return the file in which the cache stores the commit of a branch or tag."""
    return repo_folder(repo_id) / "refs" / (revision or constants.DEFAULT_REVISION)


def cached_commit(repo_id: str, revision: str | None) -> str | None:
    """Return the commit that a revision pointed to when it was last downloaded; None when it never was."""
    if is_commit_hash(revision):
        return revision
    ref = _ref_file(repo_id, revision)
    # os.path, since Path raises on a name that is too long.
    commit_hash = ref.read_text(encoding="utf-8").strip() if os.path.isfile(ref) else ""  # noqa: PTH113
    return commit_hash if is_commit_hash(commit_hash) else None


def remember_commit(repo_id: str, revision: str | None, commit_hash: str) -> None:
    """Write down which commit a revision points to, so that the model can be opened without a network."""
    if cached_commit(repo_id, revision) == commit_hash:
        return
    ref = _ref_file(repo_id, revision)
    # A cache that cannot be written still serves the commit by its hash.
    with contextlib.suppress(OSError):
        make_folder(ref.parent)
        write_whole(ref, commit_hash.encode())


def cached_weights(snapshot: Path) -> tuple[str, ...]:
    """Return the names of a snapshot's weight files if the model is complete, and no names if it is not.

    A model is complete when its config and all of its weights are cached; a link to a missing blob does not count.
    """
    # It imports torch, which `cached_names` must not.
    from qtoolkit.hub.repository_files import choose_weights

    names = [file.name for file in snapshot.iterdir() if file.is_file()] if snapshot.is_dir() else []
    if "config.json" not in names:
        return ()
    try:
        weights = choose_weights(snapshot, names)
    except SourceError:
        return ()
    return weights if set(weights) <= set(names) else ()


def local_models() -> tuple[str, ...]:
    """Return the sorted ids of the models that are complete in the local Hub cache, without network or weights."""
    return tuple(name for name in _cached_repositories() if complete_snapshot(name))


def cached_names() -> tuple[str, ...]:
    """Return the sorted ids of the models that have a config and weights in the local Hub cache, for completion.

    Whether all weights are there is not looked at, unlike in `local_models`: that imports torch, which takes seconds.
    """
    kinds = ("*.safetensors", "*.gguf")
    return tuple(
        name
        for name in _cached_repositories()
        for snapshots in [repo_folder(name) / "snapshots"]
        if any(snapshots.glob("*/config.json")) and any(any(snapshots.glob(f"*/{kind}")) for kind in kinds)
    )


def _cached_repositories() -> list[str]:
    """Return the sorted ids of the models of which the cache has any file."""
    folders = cache_folder().glob("models--*")
    return sorted(folder.name.removeprefix("models--").replace("--", "/") for folder in folders)


def complete_snapshot(repo_id: str) -> Path | None:
    """Return the folder of a complete cached commit of a model, of the default branch if possible; None without one."""
    commit_hash = cached_commit(repo_id, None)
    snapshots = sorted(
        repo_folder(repo_id).glob("snapshots/*"), key=lambda folder: (folder.name != commit_hash, folder.name)
    )
    return next((snapshot for snapshot in snapshots if cached_weights(snapshot)), None)
