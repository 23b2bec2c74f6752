"""Find the folder of the full-precision model that a saved model is compared with, on this machine alone."""

import os
from pathlib import Path

from qtoolkit.checkpoints.hub_names import is_commit_hash, is_hub_id
from qtoolkit.errors import ModelNotFoundError, printable
from qtoolkit.files import absolute, path_of
from qtoolkit.hub.cache import cached_commit, snapshot_folder
from qtoolkit.hub.repository import parse_name
from qtoolkit.partial import put_back
from qtoolkit.publishing.listing import list_folder
from qtoolkit.records import Receipt


def base_name(base: object) -> str | None:
    """Return the name of a base as text; None where a person named none.

    Raises:
        ModelNotFoundError: it is neither text nor a path.
    """
    name = os.fspath(base) if isinstance(base, os.PathLike) else base
    if not isinstance(name, str | None):
        raise ModelNotFoundError(f"base={base!r:.60} is no name: give a folder or a Hub id as text")
    return name


def find_base(receipt: Receipt | None, name: str | None) -> Path | None:
    """Return the folder of the base; the network is not asked.

    Args:
        receipt: names the base where the person does not.
        name: what the person names; None for nothing.

    Returns:
        None where nobody named a base, or the one in the receipt is not in the local Hub cache.

    Raises:
        ModelNotFoundError: the person named a base that is not here, or that holds what must not be opened.
    """
    if name is not None:
        folder = _named_folder(name)
        for entry, what in list_folder(folder).odd.items():
            raise ModelNotFoundError(f"base={name!r}: {printable(entry)} {what}: put the file itself in its place")
        return folder
    # A receipt may say anything, and the commit becomes part of a path.
    if receipt is None or not is_commit_hash(receipt.source.commit_hash):
        return None
    folder = snapshot_folder(receipt.source.name, receipt.source.commit_hash)
    return folder if folder.is_dir() and not list_folder(folder).odd else None


def _named_folder(name: str) -> Path:
    """Return a folder by its path, or by a Hub id in the local cache.

    Raises:
        ModelNotFoundError: it is neither.
    """
    # A Hub id may not fail because the current folder was removed, as a relative path does.
    folder = absolute(name) if is_hub_id(name.partition("@")[0]) else path_of(name, "base")
    # `os.path`, since `Path.is_dir` raises on a name that is too long.
    if os.path.isdir(folder):  # noqa: PTH112
        put_back(folder)
        return folder
    repo_id, revision = parse_name(name, None)
    commit_hash = cached_commit(repo_id, revision)
    cached = snapshot_folder(repo_id, commit_hash) if commit_hash else None
    if cached is None or not cached.is_dir():
        raise ModelNotFoundError(
            f"base={name!r} is no folder and not in the local Hub cache: download it, `hf download {repo_id}`"
        )
    return cached
