"""Download a model from the Hugging Face Hub: the files of one commit, and only those that qtoolkit reads."""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import HfApi, constants

from qtoolkit.checkpoints.adapters import refuse_adapter
from qtoolkit.checkpoints.filenames import ADAPTER_CONFIG, INDEX_FILE
from qtoolkit.checkpoints.hub_names import without_address
from qtoolkit.errors import CheckpointError, ConfigError, DiskFullError, HubUnreachableError
from qtoolkit.hub.cache import cache_folder, cached_commit, cached_weights, remember_commit, snapshot_folder
from qtoolkit.hub.checked_bytes import CHECKED, CHECKED_OFFLINE, cached_hash, compare_header, named_hash
from qtoolkit.hub.download import Download, RepoFile
from qtoolkit.hub.file_download import download_file
from qtoolkit.hub.hub_errors import HubModel, translated
from qtoolkit.hub.licenses import inherited, named_license
from qtoolkit.hub.repository_files import choose_weights, refuse_without_safetensors, small_files, weight_files
from qtoolkit.hub.repository_listing import check_listing
from qtoolkit.measure.disk import free_disk
from qtoolkit.records import ProgressEvent, ignore_progress
from qtoolkit.units import format_bytes

if TYPE_CHECKING:
    from huggingface_hub.hf_api import ModelInfo, RepoSibling


@dataclass(frozen=True)
class Snapshot:
    """Hold the files of one commit of a model, complete on this disk.

    Attributes:
        folder: the snapshot's folder in the local Hub cache.
        repo_id: "org/name".
        commit_hash: the commit, 40 hexadecimal digits.
        note: what the user should know of the download, in one line; empty when there is nothing.
        checked: whether its bytes have the hashes that the Hub names, or why that was not checked.
        license: as the model's card names it, "apache-2.0"; None if it names none, or the Hub was not asked.
        gated: whether only those who accept its terms may download it; None if the Hub was not asked.
        inherited: further metadata of its card that hold for a copy.
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
    """Return the repository and the revision of a Hub name.

    Example: `parse_name("org/name@v1", None)` is `("org/name", "v1")`, and so it is of the address of that page.

    Args:
        name: "org/name", or "org/name@revision".
        revision: branch, tag or commit; None for the one in the name, or else the default branch.

    Raises:
        ConfigError: an empty revision, or two that differ.
    """
    repo_id, at, named = without_address(name).strip().partition("@")
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
    """Download a model into the local Hub cache, or use a complete cached one when the Hub does not answer.

    The revision is resolved to a commit once, and every file is taken from that commit. Config and tokenizer come first
    and are checked before a weight is downloaded. Pickles and code are never downloaded, and cached files not again; an
    interrupted download continues after the last complete file. Each file is compared once with the hash that the Hub
    names.

    Args:
        name: "org/name", or "org/name@revision".
        revision: branch, tag or commit; None for the one in the name, or else the default branch.
        token: Hub token; None for the one that huggingface_hub finds.
        on_progress: called with the bytes downloaded, in the caller's thread; what it raises stops the download.
        check: called with the snapshot's folder once it holds the config; raises to refuse the model.
        side_files: files that formats look for beside the config, by name.

    Raises:
        ConfigError: two different revisions, or a token that cannot be one.
        ModelNotFoundError: no such repository or revision, or a private one without access.
        GatedModelError: its licence was not accepted, or there is no token.
        HubUnreachableError: the Hub does not answer, and the cached model is not complete.
        UnsafeCheckpointError, UnsupportedModelError, CheckpointError: no safetensors weights.
        CheckpointError: a file came twice with other bytes than the Hub names.
        DiskFullError: too little free disk space for the download.
        OutputError: the cache cannot be written.
    """
    repo_id, revision = parse_name(name, revision)
    model = HubModel(repo_id, revision, token)
    try:
        info = ask(model)
    except HubUnreachableError as error:
        return from_cache(model, error, check, on_progress=on_progress, side_files=side_files)
    files = {file.rfilename: file for file in info.siblings or ()}
    commit_hash = str(info.sha)
    folder = snapshot_folder(model.repo_id, commit_hash)
    refuse_hub_adapter(model, commit_hash, files)
    refuse_without_safetensors(model.repo_id, sizes_of(files))

    small = described(folder, (files[name] for name in small_files(files, side_files)))
    download = Download(model, commit_hash, on_progress)
    small_bytes = download.bytes_of(small)
    # An estimate, until the configs say which weights belong to the model.
    download.total = small_bytes + download.bytes_of(described(folder, (files[name] for name in weight_files(files))))
    download.get(small)
    check(folder)
    weights = described(folder, chosen_weights(folder, files))
    download.total = small_bytes + download.bytes_of(weights)
    refuse_full_disk(model.repo_id, sum(file.to_transfer for file in weights))
    download.get(weights)
    remember_commit(model.repo_id, model.revision, commit_hash)
    note = "; ".join(filter(None, (compare_header(folder / file.name, file.expected) for file in weights)))
    return Snapshot(
        folder,
        model.repo_id,
        commit_hash,
        note,
        checked=f"not checked: the Hub names no hash of {download.unnamed[0]}" if download.unnamed else CHECKED,
        license=named_license(info.card_data),
        gated=bool(info.gated),
        inherited=inherited(info.card_data),
    )


def ask(model: HubModel) -> "ModelInfo":
    """Ask the Hub about a model: its commit, its files with their sizes, its card's metadata."""
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


def sizes_of(files: Mapping[str, "RepoSibling"]) -> dict[str, int]:
    """Return the bytes of files by name, 0 where the Hub does not tell."""
    return {name: file.size or 0 for name, file in files.items()}


def from_cache(
    model: HubModel,
    unreachable: HubUnreachableError,
    check: Callable[[Path], None],
    *,
    on_progress: Callable[[ProgressEvent], None] = ignore_progress,
    headers_only: bool = False,
    side_files: Collection[str] = (),
) -> Snapshot:
    """Use a cached model while the Hub does not answer, and compare it with the hashes in the cache.

    Args:
        model: the repository, revision and token.
        unreachable: why the Hub could not be asked; a note or the error quotes it.
        check, on_progress, side_files: as for `fetch`.
        headers_only: do not hash the weights.

    Raises:
        HubUnreachableError: the cached model is not complete.
        CheckpointError: a file has other bytes than its name in the cache says; it is kept until the Hub can be asked.
    """
    name = model.repo_id if model.revision is None else f"{model.repo_id}@{model.revision}"
    commit_hash = cached_commit(model.repo_id, model.revision)
    weights = cached_weights(snapshot_folder(model.repo_id, commit_hash)) if commit_hash else ()
    if commit_hash is None or not weights:
        message = f"{name} is not whole in the local cache {constants.HF_HUB_CACHE}, and {unreachable}"
        raise HubUnreachableError(message) from None
    folder = snapshot_folder(model.repo_id, commit_hash)
    names = small_files([file.name for file in folder.iterdir() if file.is_file()], side_files)
    small = [_cached_file(folder / file) for file in names]
    large = [] if headers_only else [_cached_file(folder / file) for file in weights]
    download = Download(model, commit_hash, on_progress, is_offline=True)
    download.total = download.bytes_of([*small, *large])
    download.get(small)
    check(folder)
    download.get(large)
    unnamed = download.unnamed
    checked = f"not checked: the local Hub cache names no hash of {unnamed[0]}" if unnamed else CHECKED_OFFLINE
    note = f"commit {commit_hash[:12]} of {name} was taken from the local cache, since {unreachable}"
    return Snapshot(folder, model.repo_id, commit_hash, note, checked)


def _cached_file(file: Path) -> RepoFile:
    return RepoFile(file.name, cached_hash(file), is_cached=True)


def described(folder: Path, files: Iterable["RepoSibling"]) -> list[RepoFile]:
    """Describe files for a download into a snapshot's folder; a blob that another commit brought is not fetched."""
    blobs = folder.parent.parent / "blobs"
    files_described = []
    for file in files:
        is_cached = (folder / file.rfilename).is_file()
        etag = file.lfs.sha256 if file.lfs else file.blob_id
        has_bytes = is_cached or bool(etag and (blobs / etag).exists())
        to_transfer = 0 if has_bytes else file.size or 0
        files_described.append(RepoFile(file.rfilename, named_hash(file), is_cached, file.size, to_transfer))
    return files_described


def refuse_hub_adapter(model: HubModel, commit_hash: str, files: Mapping[str, "RepoSibling"]) -> None:
    """Refuse a repository that holds an adapter; only its small config is downloaded, which names the base model.

    Raises:
        UnsupportedModelError: it holds one.
        SourceError: the Hub does not hand out its config.
    """
    if ADAPTER_CONFIG in files:
        config = download_file(model, commit_hash, ADAPTER_CONFIG, max_bytes=files[ADAPTER_CONFIG].size)
        refuse_adapter(config.parent, model.repo_id)


def chosen_weights(folder: Path, files: dict[str, "RepoSibling"]) -> list["RepoSibling"]:
    """Return the weight files that a repository's configs choose, as `checkpoints.folder.weight_files` of a folder.

    Args:
        folder: holds the configs and the index.
        files: all files of the repository.

    Raises:
        CheckpointError: the index is damaged, or names a file that the repository lacks.
    """
    names = choose_weights(folder, files)
    absent = [name for name in names if name not in files]
    if absent:
        raise CheckpointError(
            f"{INDEX_FILE} names {absent[0]!r}, which is not in the repository: {len(absent)} files missing"
        )
    return [files[name] for name in names]


def refuse_full_disk(repo_id: str, needed: int) -> None:
    """Raise DiskFullError where the cache's disk has fewer free bytes than a download needs."""
    cache = cache_folder()
    free = free_disk(cache)
    if needed > free:
        raise DiskFullError(
            f"{repo_id} needs {format_bytes(needed)} in {cache}, where {format_bytes(free)} are free: free some, "
            "or set HF_HOME to a folder on a larger disk"
        )
