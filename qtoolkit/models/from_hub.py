"""Open a model of the Hub: all of its files, or its headers alone."""

from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

from qtoolkit.errors import HubUnreachableError
from qtoolkit.hub.headers import fetch_headers
from qtoolkit.hub.hub_errors import HubModel
from qtoolkit.hub.repository import fetch, from_cache, parse_name
from qtoolkit.models.checkpoint import Checkpoint
from qtoolkit.models.from_folder import open_folder
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
