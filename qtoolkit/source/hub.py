"""A model from the Hugging Face Hub: files of one commit, and only those that are read."""

import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import HfApi, constants

from qtoolkit.errors import CheckpointError, ConfigError, DiskFullError, HubUnreachableError
from qtoolkit.records import ProgressEvent
from qtoolkit.source.hub_cache import (
    cached_commit,
    is_whole,
    local_models,
    remember_commit,
    repo_folder,
    snapshot_folder,
)
from qtoolkit.source.hub_download import Download
from qtoolkit.source.hub_errors import HubModel, translated
from qtoolkit.source.hub_files import indexed_files, refuse_without_safetensors, small_files, weight_files
from qtoolkit.source.hub_listing import check_listing
from qtoolkit.source.licenses import inherited, named_license
from qtoolkit.source.names import INDEX_FILE
from qtoolkit.units import format_bytes

if TYPE_CHECKING:
    from huggingface_hub.hf_api import ModelInfo, RepoSibling

__all__ = ["Snapshot", "fetch", "local_models", "parse_name"]


@dataclass(frozen=True)
class Snapshot:
    """The files of one commit of a model, whole on this disk.

    Attributes:
        folder: the snapshot's folder in the local Hub cache.
        repo_id: "org/name".
        commit_hash: the commit, 40 hexadecimal digits.
        note: what was decided on the way, in one line; empty when the Hub itself said what the commit is.
        license: as the model's card names it, "apache-2.0"; None where the card does not, or was not asked for.
        gated: whether it is handed out only to those who accept its terms; None where that was not asked for.
        inherited: what else its card says that holds for a copy.
    """

    folder: Path
    repo_id: str
    commit_hash: str
    note: str = ""
    license: str | None = None
    gated: bool | None = None
    inherited: Mapping[str, Any] = field(default_factory=dict)


def parse_name(name: str, revision: str | None) -> tuple[str, str | None]:
    """The repository and the revision that a Hub name means.

    Example: `parse_name("org/name@v1", None)` is `("org/name", "v1")`.

    Args:
        name: "org/name", or "org/name@revision".
        revision: branch, tag or commit; None for the one in the name, or else the default branch.

    Raises:
        ConfigError: an empty revision, or two that differ.
    """
    repo_id, at, named = name.strip().partition("@")
    if (at and not named) or revision == "":
        raise ConfigError(f"the revision of {name!r} is empty: name a branch, a tag or a commit, or leave it out")
    if named and revision is not None and named != revision:
        raise ConfigError(f"{name!r} and revision={revision!r} name two revisions: give one of them")
    return repo_id, named or revision


def fetch(
    name: str,
    *,
    revision: str | None = None,
    token: str | None = None,
    on_progress: Callable[[ProgressEvent], None],
    check: Callable[[Path], None],
) -> Snapshot:
    """Download a model into the local Hub cache, or take what is whole in it when the Hub does not answer.

    The revision is resolved to a commit once, and every file is taken from that commit. Config and tokenizer come first
    and are checked before a weight is downloaded. Pickles and code are never asked for. Files that are in the cache
    already are not downloaded again; what was interrupted goes on after the last whole file.

    Args:
        name: "org/name", or "org/name@revision".
        revision: branch, tag or commit; None for the one in the name, or else the default branch.
        token: Hub token; None for the one that huggingface_hub finds.
        on_progress: told of the bytes downloaded, in the caller's thread; what it raises stops the download.
        check: called with the snapshot's folder once it holds the config; raises to refuse the model.

    Raises:
        ConfigError: two different revisions, or a token that cannot be one.
        ModelNotFoundError: no such repository or revision, or a private one without access.
        GatedModelError: its licence was not accepted, or there is no token.
        HubUnreachableError: the Hub does not answer, and the cache does not hold the whole model.
        UnsafeCheckpointError, UnsupportedModelError, CheckpointError: no safetensors weights.
        DiskFullError: too little room for what has to be downloaded.
        OutputError: the cache cannot be written.
    """
    model = HubModel(*parse_name(name, revision), token)
    try:
        info = ask(model)
    except HubUnreachableError as error:
        return from_cache(model, error, check)
    files = {file.rfilename: file for file in info.siblings or ()}
    commit_hash = str(info.sha)
    folder = snapshot_folder(model.repo_id, commit_hash)
    refuse_without_safetensors(model.repo_id, files)

    small = missing_files(folder, (files[name] for name in small_files(files)))
    weights = missing_files(folder, (files[name] for name in weight_files(files)))
    download = Download(model, commit_hash, sum(small.values()) + sum(weights.values()), on_progress)
    download.get(small)
    check(folder)
    if INDEX_FILE in files:
        weights = missing_files(folder, indexed(folder, files))
        download.total = sum(small.values()) + sum(weights.values())
    _refuse_full_disk(model.repo_id, sum(weights.values()))
    download.get(weights)
    remember_commit(model.repo_id, model.revision, commit_hash)
    card = info.card_data
    said: dict[str, Any] = {"license": named_license(card), "gated": bool(info.gated), "inherited": inherited(card)}
    return Snapshot(folder, model.repo_id, commit_hash, **said)


def ask(model: HubModel) -> "ModelInfo":
    """What the Hub says of a model: its commit, and its files with their sizes."""
    with translated(model):
        info = HfApi().model_info(
            model.repo_id,
            revision=model.revision,
            files_metadata=True,
            timeout=constants.HF_HUB_ETAG_TIMEOUT,
            token=model.token,
        )
        if info.sha is None:
            raise ValueError("no commit")
    check_listing(model.repo_id, info)
    return info


def from_cache(model: HubModel, unreachable: HubUnreachableError, check: Callable[[Path], None]) -> Snapshot:
    """What the local cache holds of a model that the Hub cannot be asked about."""
    wanted = model.repo_id if model.revision is None else f"{model.repo_id}@{model.revision}"
    commit_hash = cached_commit(model.repo_id, model.revision)
    if commit_hash is None or not is_whole(snapshot_folder(model.repo_id, commit_hash)):
        message = f"{wanted} is not whole in the local cache {constants.HF_HUB_CACHE}, and {unreachable}"
        raise HubUnreachableError(message) from unreachable.__cause__
    folder = snapshot_folder(model.repo_id, commit_hash)
    check(folder)
    note = f"commit {commit_hash[:12]} of {wanted} was taken from the local cache, since {unreachable}"
    return Snapshot(folder, model.repo_id, commit_hash, note)


def missing_files(folder: Path, files: Iterable["RepoSibling"]) -> dict[str, int]:
    """The files that a snapshot lacks, each with the bytes to transfer: 0 when another commit brought them already."""
    blobs = folder.parent.parent / "blobs"
    missing = {}
    for file in files:
        if not (folder / file.rfilename).exists():
            etag = file.lfs.sha256 if file.lfs else file.blob_id
            missing[file.rfilename] = 0 if etag and (blobs / etag).exists() else file.size or 0
    return missing


def indexed(folder: Path, files: dict[str, "RepoSibling"]) -> list["RepoSibling"]:
    """The weight files that a folder's index names, as the Hub describes them.

    Raises:
        CheckpointError: the index is damaged, or names a file that the repository lacks.
    """
    names = indexed_files(folder / INDEX_FILE)
    absent = [name for name in names if name not in files]
    if absent:
        raise CheckpointError(
            f"{INDEX_FILE} names {absent[0]!r}, which is not in the repository: {len(absent)} files missing"
        )
    return [files[name] for name in names]


def _refuse_full_disk(repo_id: str, needed: int) -> None:
    cache = repo_folder(repo_id).parent
    free = shutil.disk_usage(next(place for place in (cache, *cache.parents) if place.exists())).free
    if needed > free:
        raise DiskFullError(
            f"{repo_id} needs {format_bytes(needed)} in {cache}, where {format_bytes(free)} are free: free some, "
            "or set HF_HOME to a folder on a larger disk"
        )
