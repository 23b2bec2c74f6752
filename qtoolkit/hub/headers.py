"""Read the headers of a model on the Hub: config, index, and the first bytes of each weight file.

They are written as a temporary folder, in which each weight file is a sparse file with its real header and length, so
that the code for folders reads and checks these too; sparse files take no disk space.
"""

import struct
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from huggingface_hub import HfApi, hf_hub_url
from huggingface_hub.utils._headers import build_hf_headers
from huggingface_hub.utils._http import get_session, hf_raise_for_status

from qtoolkit.checkpoints.filenames import HEADERS_PREFIX
from qtoolkit.checkpoints.safetensors import MAX_HEADER_BYTES
from qtoolkit.errors import CheckpointError, OutputError
from qtoolkit.files import scratch_folder
from qtoolkit.hub.cache import snapshot_folder
from qtoolkit.hub.checked_bytes import named_hash, refuse_other_bytes, remember_header
from qtoolkit.hub.file_download import download_file
from qtoolkit.hub.hub_errors import HubModel, translated
from qtoolkit.hub.repository import ask, chosen_weights, described, parse_name, refuse_hub_adapter, sizes_of
from qtoolkit.hub.repository_files import CONFIG_FILES, refuse_without_safetensors, small_files

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoSibling

# Enough for nearly every header, as huggingface_hub found: most need one request.
_FIRST_BYTES = 100_000
_MAX_THREADS = 8
# The HTTP status of an answer with all of a file, not the part that was requested.
_FULL_ANSWER = 200


@dataclass(frozen=True)
class Headers:
    """Hold what a plan needs of a model on the Hub.

    Attributes:
        folder: the temporary folder with config and sparse weight files.
        repo_id: "org/name".
        commit_hash: the commit.
        download_bytes: bytes that `fetch` would download.
        tokenizer_bytes: size of tokenizer.json; 0 without one.
    """

    folder: Path
    repo_id: str
    commit_hash: str
    download_bytes: int
    tokenizer_bytes: int


@contextmanager
def fetch_headers(
    name: str, *, revision: str | None, token: str | None, check: Callable[[Path], None]
) -> Iterator[Headers]:
    """Read a model's headers from the Hub; no weight is downloaded, and only small files are left in the cache.

    Args:
        name: "org/name", or "org/name@revision".
        revision: branch, tag or commit; None for the one in the name, or else the default branch.
        token: Hub token; None for the one that huggingface_hub finds.
        check: called with the folder once it holds the config; raises to refuse the model.

    Raises:
        SourceError: as `fetch`; a wrong header is found later, by the code that reads the folder.
    """
    repo_id, revision = parse_name(name, revision)
    model = HubModel(repo_id, revision, token)
    info = ask(model)
    files = {file.rfilename: file for file in info.siblings or ()}
    commit_hash = str(info.sha)
    refuse_hub_adapter(model, commit_hash, files)
    refuse_without_safetensors(model.repo_id, sizes_of(files))
    snapshot = snapshot_folder(model.repo_id, commit_hash)
    with scratch_folder(HEADERS_PREFIX) as folder:
        for config in files.keys() & set(CONFIG_FILES):
            (folder / config).write_bytes(_small_file(model, commit_hash, files[config]).read_bytes())
        check(folder)
        weights = chosen_weights(folder, files)
        with ThreadPoolExecutor(_MAX_THREADS) as pool:
            headers = pool.map(partial(_header, model, commit_hash), weights)
            for file, header in zip(weights, headers, strict=True):
                write_sparse(folder / file.rfilename, header, file.size or 0)
                remember_header(named_hash(file), header)
        needed = [*(files[name] for name in small_files(files)), *weights]
        tokenizer = files.get("tokenizer.json")
        yield Headers(
            folder,
            model.repo_id,
            commit_hash,
            download_bytes=sum(file.to_transfer for file in described(snapshot, needed)),
            tokenizer_bytes=(tokenizer.size or 0) if tokenizer else 0,
        )


def _small_file(model: HubModel, commit_hash: str, file: "RepoSibling") -> Path:
    """Download a small file into the local cache, and compare it with the hash that the Hub names."""
    fetch = partial(download_file, model, commit_hash, file.rfilename, max_bytes=file.size)
    cached = fetch()
    expected = named_hash(file)
    if expected is not None:
        refuse_other_bytes(cached, expected, partial(fetch, again=True), model)
    return cached


def write_sparse(file: Path, header: bytes, size: int) -> None:
    """Write a sparse file that begins with a header.

    Raises:
        OutputError: the file system of temporary files takes no file of this size, or is full.
    """
    try:
        with file.open("wb") as stream:
            stream.write(header)
            stream.truncate(max(len(header), size))
    except OSError as error:
        what = f"the headers of {file.name} cannot be kept in {file.parent} ({error.strerror})"
        raise OutputError(f"{what}: set TMPDIR to a folder on another disk") from error


def _header(model: HubModel, commit_hash: str, file: "RepoSibling") -> bytes:
    """Read the header of a weight file from the Hub, with the eight bytes of its length before it."""
    url = hf_hub_url(model.repo_id, file.rfilename, revision=commit_hash, endpoint=HfApi().endpoint)
    with translated(model):
        first = read_range(model, url, 0, _FIRST_BYTES)
        length = 8 + struct.unpack("<Q", first[:8])[0] if len(first) >= 8 else 0
        if not 8 < length <= min(MAX_HEADER_BYTES, file.size or MAX_HEADER_BYTES):
            what = f"{file.rfilename} of {model.repo_id}"
            if first.lstrip().startswith(b"<"):
                raise ValueError(f"a page of markup in place of {what}")
            raise CheckpointError(
                f"{what} is damaged: its header is said to take {length} bytes: name another revision"
            )
        return first[:length] if length <= len(first) else first + read_range(model, url, len(first), length)


def read_range(model: HubModel, url: str, start: int, stop: int) -> bytes:
    """Read a range of bytes of a file; no more is received, even from a server that ignores the requested range."""
    headers = {**build_hf_headers(token=model.token), "Range": f"bytes={start}-{stop - 1}"}
    with get_session().stream("GET", url, headers=headers, follow_redirects=True) as response:
        hf_raise_for_status(response)
        is_full = response.status_code == _FULL_ANSWER
        skipped = start if is_full else 0
        content_range = response.headers.get("Content-Range", "")
        if not is_full and not content_range.startswith(f"bytes {start}-"):
            raise ValueError(f"asked for bytes from {start} on, got {content_range[:40]!r}")
        content = bytearray()
        for piece in response.iter_bytes():
            content += piece
            if len(content) >= skipped + stop - start:
                break
    return bytes(content[skipped : skipped + stop - start])
