"""Compare files with the hashes that the Hub names; each is hashed once, and the result is remembered.

The Hub names a large file by its SHA-256 and a small one by git's hash of it, and so does its local cache, whose blobs
are called by them.
"""

import hashlib
import re
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from huggingface_hub import constants

from qtoolkit.checkpoints.safetensors import MAX_HEADER_BYTES
from qtoolkit.errors import CheckpointError
from qtoolkit.files import absolute, cache_json, read_json, user_cache
from qtoolkit.hub.hub_errors import HubModel, translated

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoSibling

# What a receipt says of a model's bytes.
CHECKED = "checked: every file has the hash that the Hub names"
CHECKED_OFFLINE = "checked: every file has the hash that the local Hub cache names it by"
# Smaller files are hashed faster than their remembered hash is looked up.
_WORTH_REMEMBERING = 100_000
# Bytes between two reports: some milliseconds.
_PIECE = 4 << 20
# The most recent headers are remembered, since a plan may never be followed by a download.
_MAX_HEADERS = 1000
_LONGEST_HEADER = 8 + MAX_HEADER_BYTES
OnBytes = Callable[[int], None]


def ignore_bytes(_count: int) -> None:
    """Do nothing with a count of bytes."""


def named_hash(file: "RepoSibling") -> str | None:
    """Return the hash by which the Hub names a file's content, 64 or 40 hexadecimal digits; None without one."""
    return _hash_or_none((file.lfs.sha256 if file.lfs else file.blob_id) or "")


def cached_hash(file: Path) -> str | None:
    """Return the hash in the name of the blob that a snapshot's file is a link to; None where it is no such link."""
    try:
        return _hash_or_none(file.readlink().name)
    except OSError:
        return None


def _hash_or_none(text: str) -> str | None:
    return text if re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", text) else None


def bytes_to_hash(file: Path, expected: str | None) -> int:
    """Return the bytes that `has_hash` would read of a file; 0 if its hash is remembered, or it is small."""
    size = next(iter(_state(file)), 0)
    return 0 if size < _WORTH_REMEMBERING or expected is None or _remembered_hash(file, expected) else size


def has_hash(file: Path, expected: str, on_bytes: OnBytes = ignore_bytes) -> bool:
    """Check whether a file's content has a hash; it is read again only when its size, time or inode changed.

    A missing file has no hash: of two processes that find the same damaged file, one may have removed it already.

    Args:
        file: the file, or a link to it.
        expected: 64 digits for SHA-256, 40 for git's hash of a file.
        on_bytes: called with the number of bytes read so far; what it raises ends the reading.
    """
    return (_remembered_hash(file, expected) or _hash(file, expected, on_bytes)) == expected


def refuse_other_bytes(
    file: Path, expected: str, fetch_again: Callable[[], object], model: HubModel, on_bytes: OnBytes = ignore_bytes
) -> None:
    """Compare a downloaded file with its hash; remove one that differs, and fetch it once more.

    Args:
        file: its path.
        expected: as for `has_hash`.
        fetch_again: downloads it to the same path.
        model: the repository, for the error.
        on_bytes: as for `has_hash`.

    Raises:
        CheckpointError: it differs again; it is removed.
        OutputError: it cannot be removed.
    """
    for is_last in (False, True):
        if has_hash(file, expected, on_bytes):
            return
        with translated(model):
            remove_cached(file)
        if not is_last:
            fetch_again()
    raise CheckpointError(
        f"{file.name} of {model.repo_id} came twice with other bytes than the Hub names (hash {expected[:12]}), and "
        "was removed: check the network, the proxy and HF_ENDPOINT, then run it again"
    )


def remove_cached(file: Path) -> None:
    """Remove a file of a snapshot, and the blobs in the cache that its chain of links leads to."""
    cache = absolute(constants.HF_HUB_CACHE).resolve()
    path = file
    while path.is_symlink():
        target = path.parent / path.readlink()
        path.unlink()
        if not target.parent.resolve().is_relative_to(cache):
            return
        path = target
    if not path.is_dir():
        path.unlink(missing_ok=True)


def _hash(file: Path, like: str, on_bytes: OnBytes) -> str:
    """Hash a file's content in the way that `like` was made, and remember the result; empty for a missing file."""
    state = _state(file)
    if not state:
        return ""
    count = 0
    digest = hashlib.sha256() if len(like) == 64 else hashlib.sha1(b"blob %d\0" % state[0], usedforsecurity=False)
    for piece in _pieces(file):
        digest.update(piece)
        count += len(piece)
        on_bytes(count)
    computed = digest.hexdigest()
    if count >= _WORTH_REMEMBERING and state == _state(file):
        hashes = {path: known for path, known in read_json(_hashes_file()).items() if Path(path).exists()}
        cache_json(_hashes_file(), hashes | {str(file.resolve()): [*state, computed]})
    return computed


def _pieces(file: Path) -> Iterator[memoryview]:
    """Read a file's content piece by piece into one buffer, which each piece overwrites."""
    buffer = memoryview(bytearray(_PIECE))
    try:
        with file.open("rb", buffering=0) as stream:
            while length := stream.readinto(buffer):
                yield buffer[:length]
    except FileNotFoundError:
        return
    except OSError as error:
        raise CheckpointError(
            f"{file} cannot be read ({error.strerror}): check its permissions and the disk"
        ) from error


def _remembered_hash(file: Path, like: str) -> str | None:
    """Return the hash that was computed of a file that has not changed since, if it is of the kind of `like`."""
    match read_json(_hashes_file()).get(str(file.resolve())):
        case [*state, str(computed)] if state and state == _state(file) and len(computed) == len(like):
            return computed
    return None


def _state(file: Path) -> list[int]:
    """Return size, time and inode of a regular file; an empty list where there is none."""
    try:
        state = file.stat()
    except OSError:
        return []
    return [state.st_size, state.st_mtime_ns, state.st_ino] if stat.S_ISREG(state.st_mode) else []


def _hashes_file() -> Path:
    """Return the file with path -> size, time, inode, hash; an entry that another process overwrites is made again."""
    return user_cache() / "hashes.json"


def remember_header(expected: str | None, header: bytes) -> None:
    """Remember what was read of a weight file's beginning, to compare it when the file is downloaded."""
    if expected is not None:
        recent = dict(list(read_json(_headers_file()).items())[-_MAX_HEADERS:])
        cache_json(_headers_file(), recent | {expected: [len(header), hashlib.sha256(header).hexdigest()]})


def compare_header(file: Path, expected: str | None) -> str:
    """Compare a downloaded file with the header that `remember_header` was given, and forget that header.

    Returns:
        A note for the user, in one line; empty when both are the same, or nothing was remembered.
    """
    headers = read_json(_headers_file())
    match headers.pop(expected or "", None):
        case [int(length), str(digest)] if 0 <= length <= _LONGEST_HEADER:
            cache_json(_headers_file(), headers)
            with file.open("rb") as stream:
                if hashlib.sha256(stream.read(length)).hexdigest() != digest:
                    return f"the header of {file.name} that qt.plan read is not that of the file: plan again"
    return ""


def _headers_file() -> Path:
    """Return the file with hash of a weight file -> length and SHA-256 of what was read of its beginning."""
    return user_cache() / "headers.json"
