"""Open a model of the Hub: all of its files, or its headers alone."""

from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

from qtoolkit.errors import HubUnreachableError
from qtoolkit.hub.gguf_choice import GgufName
from qtoolkit.hub.gguf_files import fetch_gguf, fetch_gguf_header
from qtoolkit.hub.headers import fetch_headers
from qtoolkit.hub.hub_errors import HubModel
from qtoolkit.hub.repository import fetch, from_cache, parse_name
from qtoolkit.models.checkpoint import Checkpoint
from qtoolkit.models.from_folder import open_folder
from qtoolkit.models.from_gguf import open_gguf
from qtoolkit.records import OnProgress


def open_downloaded(
    name: str,
    tokenizer: Any,
    check: Callable[[Path], None],
    *,
    revision: str | None,
    token: str | None,
    on_progress: OnProgress,
    side_files: Collection[str],
) -> Checkpoint:
    """Download a model as far as it is not in the local cache, and open it with what the Hub says of it.

    Args:
        name: "org/name", or "org/name@revision".
        tokenizer: one to use instead of the model's own; None for that.
        check: refuses the model by its config, before weights are downloaded.
        revision, token, on_progress, side_files: as for `open_checkpoint`.

    Raises:
        SourceError: as `open_checkpoint`.
    """
    snapshot = fetch(name, revision=revision, token=token, on_progress=on_progress, check=check, side_files=side_files)
    checkpoint = replace(
        open_folder(snapshot.repo_id, snapshot.folder, tokenizer, check),
        commit_hash=snapshot.commit_hash,
        checked=snapshot.checked,
        license=snapshot.license,
        gated=snapshot.gated,
        inherited=snapshot.inherited,
    )
    return checkpoint.with_notes(snapshot.note) if snapshot.note else checkpoint


def open_headers(
    name: str, tokenizer: Any, check: Callable[[Path], None], *, revision: str | None, token: str | None
) -> Checkpoint:
    """Open the headers of a model; where the Hub does not answer, those of a complete copy in the local cache.

    Args:
        name, tokenizer, check, revision, token: as for `open_downloaded`.

    Raises:
        SourceError: as `open_checkpoint`.
    """
    try:
        with fetch_headers(name, revision=revision, token=token, check=check) as headers:
            checkpoint = open_folder(headers.repo_id, headers.folder, tokenizer, check, headers_only=True)
            # Its skeleton is built while the files are there.
            checkpoint = checkpoint.with_notes(*checkpoint.skeleton_notes)
    except HubUnreachableError as error:
        snapshot = from_cache(HubModel(*parse_name(name, revision), token), error, check, headers_only=True)
        checkpoint = open_folder(snapshot.repo_id, snapshot.folder, tokenizer, check, headers_only=True)
        return replace(checkpoint, commit_hash=snapshot.commit_hash).with_notes(snapshot.note)
    return replace(
        checkpoint,
        path=None,
        commit_hash=headers.commit_hash,
        download_bytes=headers.download_bytes,
        tokenizer_bytes=headers.tokenizer_bytes,
    )


def open_hub_gguf(
    name: GgufName,
    tokenizer: Any,
    *,
    revision: str | None,
    token: str | None,
    on_progress: OnProgress,
    headers_only: bool,
) -> Checkpoint:
    """Open a `.gguf` model of the Hub: its header alone, or downloaded as far as it is not in the local cache.

    Args:
        name: which file of which repository.
        tokenizer, revision, token, on_progress, headers_only: as for `open_checkpoint`. Where the Hub does not answer,
            a whole copy in the local cache is opened.

    Raises:
        SourceError: as `open_checkpoint`.
    """
    if headers_only:
        try:
            return _open_gguf_header(name, tokenizer, revision, token)
        except HubUnreachableError:
            # Raises the same again where the cache holds no whole copy.
            pass
    snapshot, file = fetch_gguf(name, revision=revision, token=token, on_progress=on_progress)
    checkpoint = replace(
        open_gguf(file, tokenizer, headers_only=headers_only),
        name=snapshot.repo_id,
        commit_hash=snapshot.commit_hash,
        checked=snapshot.checked,
        license=snapshot.license,
        gated=snapshot.gated,
        inherited=snapshot.inherited,
    )
    return checkpoint.with_notes(_chosen(file.relative_to(snapshot.folder)), *filter(None, [snapshot.note]))


def _open_gguf_header(name: GgufName, tokenizer: Any, revision: str | None, token: str | None) -> Checkpoint:
    """Open the header of a `.gguf` model of the Hub; raises as `open_hub_gguf`."""
    with fetch_gguf_header(name, revision=revision, token=token) as (headers, file):
        checkpoint = open_gguf(file, tokenizer, headers_only=True)
        # Its skeleton is built while the files are there.
        checkpoint = checkpoint.with_notes(*checkpoint.skeleton_notes, _chosen(file.relative_to(headers.folder)))
    return replace(
        checkpoint,
        name=headers.repo_id,
        path=None,
        commit_hash=headers.commit_hash,
        download_bytes=headers.download_bytes,
    )


def _chosen(file: Path) -> str:
    return f"the file {file.as_posix()} of the repository is read"
