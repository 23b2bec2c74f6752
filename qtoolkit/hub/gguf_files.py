"""Download a `.gguf` file of a repository on the Hub, or read its header alone."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from huggingface_hub import HfApi, hf_hub_url

from qtoolkit.checkpoints.filenames import HEADERS_PREFIX
from qtoolkit.checkpoints.gguf_header import MAX_HEADER_BYTES, parse_gguf
from qtoolkit.checkpoints.gguf_parser import HeaderParser
from qtoolkit.errors import CheckpointError, HubUnreachableError, ModelNotFoundError, UnsupportedModelError
from qtoolkit.files import make_folder, scratch_folder
from qtoolkit.hub.cache import cached_commit, remember_commit, snapshot_folder
from qtoolkit.hub.checked_bytes import (
    CHECKED,
    CHECKED_OFFLINE,
    cached_hash,
    compare_header,
    named_hash,
    remember_header,
)
from qtoolkit.hub.download import Download, RepoFile
from qtoolkit.hub.gguf_choice import GgufName, choose_gguf
from qtoolkit.hub.headers import Headers, read_range, write_sparse
from qtoolkit.hub.hub_errors import HubModel, translated
from qtoolkit.hub.licenses import inherited, named_license
from qtoolkit.hub.repository import Snapshot, ask, described, parse_name, refuse_full_disk, sizes_of
from qtoolkit.records import ProgressEvent

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoSibling

# The first bytes that are asked for: vocabularies of 32,000 words take less.
_FIRST_BYTES = 1_000_000


def fetch_gguf(
    name: GgufName, *, revision: str | None, token: str | None, on_progress: Callable[[ProgressEvent], None]
) -> tuple[Snapshot, Path]:
    """Download a model into the local Hub cache, or use the cached one when the Hub does not answer.

    Args:
        name: which file.
        revision, token, on_progress: as for `qtoolkit.hub.repository.fetch`.

    Returns:
        The snapshot, and the model's first file in it.

    Raises:
        SourceError, ConfigError, OutputError: as `fetch` and `choose_gguf`.
    """
    repo_id, revision = parse_name(name.repo, revision)
    model = HubModel(repo_id, revision, token)
    try:
        info = ask(model)
    except HubUnreachableError as error:
        return _from_cache(model, name.choice, error, on_progress)
    files = {file.rfilename: file for file in info.siblings or ()}
    folder = snapshot_folder(model.repo_id, str(info.sha))
    chosen = choose_gguf(model.repo_id, sizes_of(files), name.choice)
    weights = described(folder, (files[part] for part in chosen))
    download = Download(model, str(info.sha), on_progress)
    download.total = download.bytes_of(weights)
    refuse_full_disk(model.repo_id, sum(file.to_transfer for file in weights))
    download.get(weights)
    remember_commit(model.repo_id, model.revision, str(info.sha))
    snapshot = Snapshot(
        folder,
        model.repo_id,
        str(info.sha),
        note="; ".join(filter(None, (compare_header(folder / file.name, file.expected) for file in weights))),
        checked=f"not checked: the Hub names no hash of {download.unnamed[0]}" if download.unnamed else CHECKED,
        license=named_license(info.card_data),
        gated=bool(info.gated),
        inherited=inherited(info.card_data),
    )
    return snapshot, folder / chosen[0]


@contextmanager
def fetch_gguf_header(name: GgufName, *, revision: str | None, token: str | None) -> Iterator[tuple[Headers, Path]]:
    """Read the headers of a model's files from the Hub, by ranges; no weight is downloaded.

    Args:
        name, revision, token: as for `fetch_gguf`.

    Yields:
        What a plan needs, and the model's first file in its temporary folder, sparse behind its header.

    Raises:
        SourceError, ConfigError: as `fetch_gguf`, or a header is damaged.
    """
    repo_id, revision = parse_name(name.repo, revision)
    model = HubModel(repo_id, revision, token)
    info = ask(model)
    files = {file.rfilename: file for file in info.siblings or ()}
    chosen = choose_gguf(model.repo_id, sizes_of(files), name.choice)
    with scratch_folder(HEADERS_PREFIX) as folder:
        for part in chosen:
            header = _header(model, str(info.sha), files[part])
            make_folder((folder / part).parent)
            write_sparse(folder / part, header, files[part].size or 0)
            remember_header(named_hash(files[part]), header)
        weights = described(snapshot_folder(model.repo_id, str(info.sha)), (files[part] for part in chosen))
        to_download = sum(file.to_transfer for file in weights)
        yield Headers(folder, model.repo_id, str(info.sha), to_download, tokenizer_bytes=0), folder / chosen[0]


def _from_cache(
    model: HubModel, choice: str, unreachable: HubUnreachableError, on_progress: Callable[[ProgressEvent], None]
) -> tuple[Snapshot, Path]:
    """Use a cached model while the Hub does not answer; raises HubUnreachableError where it is not whole there."""
    commit_hash = cached_commit(model.repo_id, model.revision)
    folder = snapshot_folder(model.repo_id, commit_hash or "none")
    cached = {file.relative_to(folder).as_posix(): file.stat().st_size for file in folder.rglob("*.gguf")}
    try:
        chosen = choose_gguf(model.repo_id, cached, choice)
    except (UnsupportedModelError, ModelNotFoundError, CheckpointError):
        message = f"{model.repo_id}:{choice} is not whole in the local cache, and {unreachable}"
        raise HubUnreachableError(message) from None
    files = [RepoFile(name, cached_hash(folder / name), is_cached=True) for name in chosen]
    download = Download(model, str(commit_hash), on_progress, is_offline=True)
    download.total = download.bytes_of(files)
    download.get(files)
    checked = f"not checked: the local Hub cache names no hash of {chosen[0]}" if download.unnamed else CHECKED_OFFLINE
    note = f"{chosen[0]} of {model.repo_id} was taken from the local cache, since {unreachable}"
    return Snapshot(folder, model.repo_id, str(commit_hash), note, checked), folder / chosen[0]


def _header(model: HubModel, commit_hash: str, file: "RepoSibling") -> bytes:
    """Read the header of a file from the Hub: a megabyte, or four times as many where it goes on."""
    url = hf_hub_url(model.repo_id, file.rfilename, revision=commit_hash, endpoint=HfApi().endpoint)
    size = file.size or 0
    data, wanted = b"", min(_FIRST_BYTES, size)
    while True:
        with translated(model):
            data += read_range(model, url, len(data), wanted) if wanted else b""
        parser = HeaderParser(Path(model.repo_id, file.rfilename), data)
        try:
            parse_gguf(parser, size)
        except CheckpointError:
            if not parser.is_cut or len(data) < wanted or wanted >= min(size, MAX_HEADER_BYTES):
                raise
            wanted = min(4 * wanted, size, MAX_HEADER_BYTES)
        else:
            return data[: parser.position]
