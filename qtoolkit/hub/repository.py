"""A model from the Hugging Face Hub: files of one commit, and only those that are read."""

import shutil
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import HfApi, constants

from qtoolkit.checkpoints.adapters import refuse_adapter
from qtoolkit.checkpoints.filenames import ADAPTER_CONFIG, INDEX_FILE
from qtoolkit.checkpoints.folder import named_file
from qtoolkit.errors import CheckpointError, ConfigError, DiskFullError, HubUnreachableError
from qtoolkit.hub.cache import (
    cached_commit,
    is_whole,
    local_models,
    remember_commit,
    repo_folder,
    snapshot_folder,
)
from qtoolkit.hub.checked_bytes import (
    CHECKED,
    CHECKED_OFFLINE,
    bytes_to_hash,
    cached_hash,
    compare_header,
    has_hash,
    named_hash,
)
from qtoolkit.hub.download import Download, Wanted
from qtoolkit.hub.file_download import download_file
from qtoolkit.hub.hub_errors import HubModel, translated
from qtoolkit.hub.licenses import inherited, named_license
from qtoolkit.hub.repository_files import indexed_files, refuse_without_safetensors, small_files, weight_files
from qtoolkit.hub.repository_listing import check_listing
from qtoolkit.records import ProgressEvent, ignore_progress
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
        checked: whether its bytes have the hashes that the Hub names, or why that is not known.
        license: as the model's card names it, "apache-2.0"; None where the card does not, or was not asked for.
        gated: whether it is handed out only to those who accept its terms; None where that was not asked for.
        inherited: what else its card says that holds for a copy.
    """

    folder: Path
    repo_id: str
    commit_hash: str
    note: str = ""
    checked: str = ""
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
    side_files: Collection[str] = (),
) -> Snapshot:
    """Download a model into the local Hub cache, or take what is whole in it when the Hub does not answer.

    The revision is resolved to a commit once, and every file is taken from that commit. Config and tokenizer come first
    and are checked before a weight is downloaded. Pickles and code are never asked for. Files that are in the cache
    already are not downloaded again; what was interrupted goes on after the last whole file. Each file is compared with
    the hash that the Hub names, once.

    Args:
        name: "org/name", or "org/name@revision".
        revision: branch, tag or commit; None for the one in the name, or else the default branch.
        token: Hub token; None for the one that huggingface_hub finds.
        on_progress: told of the bytes downloaded, in the caller's thread; what it raises stops the download.
        check: called with the snapshot's folder once it holds the config; raises to refuse the model.
        side_files: files that formats look for beside the config, by name.

    Raises:
        ConfigError: two different revisions, or a token that cannot be one.
        ModelNotFoundError: no such repository or revision, or a private one without access.
        GatedModelError: its licence was not accepted, or there is no token.
        HubUnreachableError: the Hub does not answer, and the cache does not hold the whole model.
        UnsafeCheckpointError, UnsupportedModelError, CheckpointError: no safetensors weights.
        CheckpointError: a file came twice with other bytes than the Hub names.
        DiskFullError: too little room for what has to be downloaded.
        OutputError: the cache cannot be written.
    """
    model = HubModel(*parse_name(name, revision), token)
    try:
        info = ask(model)
    except HubUnreachableError as error:
        return from_cache(model, error, check, on_progress=on_progress, side_files=side_files)
    files = {file.rfilename: file for file in info.siblings or ()}
    commit_hash = str(info.sha)
    folder = snapshot_folder(model.repo_id, commit_hash)
    refuse_hub_adapter(model, commit_hash, files)
    refuse_without_safetensors(model.repo_id, files)

    small = wanted_files(folder, (files[name] for name in small_files(files, side_files)))
    weights = wanted_files(folder, (files[name] for name in weight_files(files)))
    download = Download(model, commit_hash, on_progress)
    before = download.bytes_of(small)
    # Until the configs say which of them count.
    download.total = before + download.bytes_of(weights)
    download.get(small)
    check(folder)
    weights = wanted_files(folder, chosen_weights(folder, files))
    download.total = before + download.bytes_of(weights)
    _refuse_full_disk(model.repo_id, sum(file.size for file in weights))
    download.get(weights)
    remember_commit(model.repo_id, model.revision, commit_hash)
    note = "; ".join(filter(None, (compare_header(folder / file.name, file.expected) for file in weights)))
    return _told_by_hub(Snapshot(folder, model.repo_id, commit_hash, note), info, download.unnamed)


def _told_by_hub(snapshot: Snapshot, info: "ModelInfo", unnamed: list[str]) -> Snapshot:
    """A snapshot with what the Hub says of its model; of the files in `unnamed` it names no hash."""
    card = info.card_data
    return replace(
        snapshot,
        checked=f"not checked: the Hub names no hash of {unnamed[0]}" if unnamed else CHECKED,
        license=named_license(card),
        gated=bool(info.gated),
        inherited=inherited(card),
    )


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


def from_cache(
    model: HubModel,
    unreachable: HubUnreachableError,
    check: Callable[[Path], None],
    *,
    on_progress: Callable[[ProgressEvent], None] = ignore_progress,
    headers_only: bool = False,
    side_files: Collection[str] = (),
) -> Snapshot:
    """What the local cache holds of a model that the Hub cannot be asked about, compared with the hashes that name it.

    Raises:
        HubUnreachableError: the cache does not hold the whole model.
        CheckpointError: a file has other bytes than its name in the cache says; it stays until the Hub can be asked.
    """
    wanted = model.repo_id if model.revision is None else f"{model.repo_id}@{model.revision}"
    commit_hash = cached_commit(model.repo_id, model.revision)
    if commit_hash is None or not is_whole(snapshot_folder(model.repo_id, commit_hash)):
        message = f"{wanted} is not whole in the local cache {constants.HF_HUB_CACHE}, and {unreachable}"
        raise HubUnreachableError(message) from unreachable.__cause__
    folder = snapshot_folder(model.repo_id, commit_hash)
    names = [file.name for file in folder.iterdir() if file.is_file()]
    named = named_file(folder, names)
    indexed_or_all = indexed_files(folder / INDEX_FILE) if INDEX_FILE in names else weight_files(names)
    weights = indexed_or_all if named is None else [named]
    unnamed = _compare_cached(folder, model, small_files(names, side_files), on_progress)
    check(folder)
    if not headers_only:
        unnamed += _compare_cached(folder, model, weights, on_progress)
    checked = f"not checked: the local Hub cache names no hash of {unnamed[0]}" if unnamed else CHECKED_OFFLINE
    note = f"commit {commit_hash[:12]} of {wanted} was taken from the local cache, since {unreachable}"
    return Snapshot(folder, model.repo_id, commit_hash, note, checked)


def _compare_cached(
    folder: Path, model: HubModel, names: Iterable[str], on_progress: Callable[[ProgressEvent], None]
) -> list[str]:
    """Compare files of a snapshot with their names in the cache; those that no hash names come back.

    Raises:
        CheckpointError: one has other bytes.
    """
    unnamed = []
    hashes = {name: cached_hash(folder / name) for name in names}
    total, done = sum(bytes_to_hash(folder / name, expected) for name, expected in hashes.items()), 0
    for name, expected in hashes.items():
        counted, before = bytes_to_hash(folder / name, expected), done

        def report(count: int, name: str = name, counted: int = counted, before: int = before) -> None:
            if counted:
                on_progress(ProgressEvent("download", before + count, total, "bytes", name))

        if expected is None:
            unnamed.append(name)
        elif not has_hash(folder / name, expected, report):
            raise CheckpointError(
                f"{name} of {model.repo_id} has other bytes in the local cache than its name there says "
                f"({expected[:12]}): run it again when the Hub can be asked, which fetches it anew"
            )
        done += counted
    return unnamed


def wanted_files(folder: Path, files: Iterable["RepoSibling"]) -> list[Wanted]:
    """The files of a snapshot, each with the bytes to transfer: 0 when it, or another commit, brought them already."""
    blobs = folder.parent.parent / "blobs"
    wanted = []
    for file in files:
        is_there = (folder / file.rfilename).is_file()
        etag = file.lfs.sha256 if file.lfs else file.blob_id
        held = is_there or bool(etag and (blobs / etag).exists())
        wanted.append(Wanted(file.rfilename, 0 if held else file.size or 0, named_hash(file), is_there))
    return wanted


def refuse_hub_adapter(model: HubModel, commit_hash: str, files: Collection[str]) -> None:
    """Refuse a repository with an adapter, which its config names with its base: a small file, and all that is fetched.

    Raises:
        UnsupportedModelError: it holds one.
        SourceError: the Hub does not hand out its config.
    """
    if ADAPTER_CONFIG in files:
        refuse_adapter(download_file(model, commit_hash, ADAPTER_CONFIG).parent, model.repo_id)


def chosen_weights(folder: Path, files: dict[str, "RepoSibling"]) -> list["RepoSibling"]:
    """The weight files that a repository's configs choose, as `qtoolkit.checkpoints.folder.weight_files` of a folder.

    Args:
        folder: the configs and the index.
        files: all files of the repository.

    Raises:
        CheckpointError: as `indexed`.
    """
    named = named_file(folder, files)
    if named is not None:
        return [files[named]]
    return indexed(folder, files) if INDEX_FILE in files else [files[name] for name in weight_files(files)]


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
