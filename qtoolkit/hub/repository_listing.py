"""Check what the Hub says that a repository holds, before anything is downloaded or written by it."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from qtoolkit.checkpoints.folder import MAX_CONFIG_BYTES
from qtoolkit.checkpoints.hub_names import is_commit_hash
from qtoolkit.errors import CheckpointError
from qtoolkit.hub.repository_files import CONFIG_FILES
from qtoolkit.units import format_bytes

if TYPE_CHECKING:
    from huggingface_hub.hf_api import ModelInfo

# Ten times the largest file that the Hub accepts; file systems of today hold at most 16 TB in one file.
_MAX_FILE_BYTES = 5_000_000_000_000
_MAX_FILES, _MAX_NAME_BYTES = 100_000, 255


def check_listing(repo_id: str, info: "ModelInfo") -> None:
    """Refuse a listing whose commit is no commit hash, or with files of impossible names or sizes.

    Args:
        repo_id: the repository, for the error.
        info: the answer of the Hub, or of whatever server answers in its place.

    Raises:
        CheckpointError: the answer is impossible.
    """
    if not is_commit_hash(info.sha):
        raise _impossible(repo_id, f"the commit {info.sha!r:.60}")
    files = info.siblings or []
    if len(files) > _MAX_FILES:
        raise _impossible(repo_id, f"{len(files)} files")
    for file in files:
        name = file.rfilename
        size = file.size
        if str(name) != name or "\0" in name or _too_long(name.split("/")):
            raise _impossible(repo_id, f"a file {name!r:.60}")
        limit = MAX_CONFIG_BYTES if name in CONFIG_FILES else _MAX_FILE_BYTES
        if size is not None and (type(size) is not int or not 0 <= size <= limit):
            what = format_bytes(size) if type(size) is int and size > limit else f"{size!r:.40} bytes"
            raise _impossible(repo_id, f"{name} with {what}")


def _too_long(parts: Iterable[str]) -> bool:
    return any(len(part.encode(errors="surrogatepass")) > _MAX_NAME_BYTES for part in parts)


def _impossible(repo_id: str, what: str) -> CheckpointError:
    return CheckpointError(
        f"the Hub says that {repo_id} has {what}, which cannot be: check HF_ENDPOINT, or name another model"
    )
