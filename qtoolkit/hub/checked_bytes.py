"""Whether a file from the Hub has the bytes that the Hub names: hashed once, and the answer kept.

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
from qtoolkit.files import absolute, keep_json, read_json, user_cache
from qtoolkit.hub.hub_errors import HubModel, translated

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoSibling

# What is said of a model's bytes in a receipt.
CHECKED = "checked: every file has the hash that the Hub names"
CHECKED_OFFLINE = "checked: every file has the hash that the local Hub cache names it by"
# Smaller files are hashed faster than it is looked up whether they were.
_WORTH_KEEPING = 100_000
# Bytes between two reports: some milliseconds.
_PIECE = 4 << 20
# Of as many files; a plan may never be followed by a download.
_KEPT_HEADERS = 1000
_LONGEST_HEADER = 8 + MAX_HEADER_BYTES
OnBytes = Callable[[int], None]


def ignore_bytes(_count: int) -> None:
    """Do nothing with a count of bytes."""


def named_hash(file: "RepoSibling") -> str | None:
    """The hash by which the Hub names a file's content: 64 or 40 hexadecimal digits; None where it names none."""
    return _a_hash((file.lfs.sha256 if file.lfs else file.blob_id) or "")


def cached_hash(file: Path) -> str | None:
    """The hash by which the local cache names a file of a snapshot, which is a link to it; None where it is none."""
    try:
        return _a_hash(file.readlink().name)
    except OSError:
        return None


def _a_hash(text: str) -> str | None:
    return text if re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", text) else None


def bytes_to_hash(file: Path, expected: str | None) -> int:
    """Bytes that `has_hash` would read of a file; 0 where it knows the answer, and of a file that takes no time."""
    size = next(iter(_state(file)), 0)
    return 0 if size < _WORTH_KEEPING or expected is None or _kept_hash(file, expected) else size


def has_hash(file: Path, expected: str, on_bytes: OnBytes = ignore_bytes) -> bool:
    """Whether a file's content has a hash; it is read once, and again only when its size, time or inode changed.

    Of two processes that find the same damaged file, one may have removed it already: what is not there has none.

    Args:
        file: the file, or a link to it.
        expected: 64 digits for SHA-256, 40 for git's hash of a file.
        on_bytes: told how many bytes were read so far; what it raises ends the reading.
    """
    return (_kept_hash(file, expected) or _hash(file, expected, on_bytes)) == expected


def refuse_other_bytes(
    file: Path, expected: str, fetch_again: Callable[[], object], model: HubModel, on_bytes: OnBytes = ignore_bytes
) -> None:
    """Compare a downloaded file with its hash; one that differs is removed and fetched once more.

    Args:
        file: where it lies.
        expected: as for `has_hash`.
        fetch_again: downloads it to the same place.
        model: whose file it is.
        on_bytes: as for `has_hash`.

    Raises:
        CheckpointError: it differs again; it is removed.
        OutputError: it cannot be removed.
    """
    if has_hash(file, expected, on_bytes):
        return
    with translated(model):
        remove_cached(file)
    fetch_again()
    if has_hash(file, expected, on_bytes):
        return
    with translated(model):
        remove_cached(file)
    raise CheckpointError(
        f"{file.name} of {model.repo_id} came twice with other bytes than the Hub names (hash {expected[:12]}), and "
        "was removed: check the network, the proxy and HF_ENDPOINT, then run it again"
    )


def remove_cached(file: Path) -> None:
    """Remove a file of a snapshot, and in the cache what it is a link to: the blob, and what that may be a link to."""
    cache, place = absolute(constants.HF_HUB_CACHE).resolve(), file
    while place.is_symlink():
        target = place.parent / place.readlink()
        place.unlink()
        if not target.parent.resolve().is_relative_to(cache):
            return
        place = target
    if not place.is_dir():
        place.unlink(missing_ok=True)


def _hash(file: Path, like: str, on_bytes: OnBytes) -> str:
    """The hash of a file's content, of the kind of `like`; kept for the next time."""
    state, count = _state(file), 0
    if not state:
        return ""
    digest = hashlib.sha256() if len(like) == 64 else hashlib.sha1(b"blob %d\0" % state[0], usedforsecurity=False)
    for piece in _pieces(file):
        digest.update(piece)
        count += len(piece)
        on_bytes(count)
    found = digest.hexdigest()
    if count >= _WORTH_KEEPING and state == _state(file):
        kept = {path: known for path, known in read_json(_hashes()).items() if Path(path).exists()}
        keep_json(_hashes(), kept | {str(file.resolve()): [*state, found]})
    return found


def _pieces(file: Path) -> Iterator[memoryview]:
    """A file's content, in one buffer that is filled anew for each piece."""
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


def _kept_hash(file: Path, like: str) -> str | None:
    """The hash that was found of this file as it stands, of the kind of `like`."""
    match read_json(_hashes()).get(str(file.resolve())):
        case [*state, str(found)] if state and state == _state(file) and len(found) == len(like):
            return found
    return None


def _state(file: Path) -> list[int]:
    """Size, time and inode of a regular file; nothing where there is none."""
    try:
        state = file.stat()
    except OSError:
        return []
    return [state.st_size, state.st_mtime_ns, state.st_ino] if stat.S_ISREG(state.st_mode) else []


def _hashes() -> Path:
    """Path -> size, time, inode and hash; where two processes write it at once, what one found is found again."""
    return user_cache() / "hashes.json"


def keep_header(expected: str | None, header: bytes) -> None:
    """Keep what was read of a weight file's beginning, to be compared when the file comes."""
    if expected is not None:
        kept = read_json(_headers())
        recent = dict(list(kept.items())[-_KEPT_HEADERS:])
        keep_json(_headers(), recent | {expected: [len(header), hashlib.sha256(header).hexdigest()]})


def compare_header(file: Path, expected: str | None) -> str:
    """Compare a file, whose bytes are the right ones, with what `keep_header` kept of it, which is forgotten then.

    Returns:
        What is to be told, in one line; empty when it is the same, or nothing was kept.
    """
    kept = read_json(_headers())
    match kept.pop(expected or "", None):
        case [int(length), str(found)] if 0 <= length <= _LONGEST_HEADER:
            keep_json(_headers(), kept)
            with file.open("rb") as stream:
                if hashlib.sha256(stream.read(length)).hexdigest() != found:
                    return f"the header of {file.name} that qt.plan read is not that of the file: plan again"
    return ""


def _headers() -> Path:
    """Hash of a file -> length and SHA-256 of what was read of its beginning."""
    return user_cache() / "headers.json"
