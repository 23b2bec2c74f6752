"""What the Hub says that a repository holds, looked at before files are made or fetched by it."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from qtoolkit.checkpoints.filenames import INDEX_FILE, QUANTIZE_CONFIG
from qtoolkit.checkpoints.folder import MAX_CONFIG_BYTES
from qtoolkit.checkpoints.hub_names import is_commit_hash
from qtoolkit.errors import CheckpointError
from qtoolkit.units import format_bytes

if TYPE_CHECKING:
    from huggingface_hub.hf_api import ModelInfo

# Ten times what the Hub takes; no file system of today holds more in one file than 16 TB.
_MAX_FILE_BYTES = 5_000_000_000_000
_MAX_FILES, _MAX_NAME_BYTES = 100_000, 255
_CONFIGS = ("config.json", "generation_config.json", QUANTIZE_CONFIG, INDEX_FILE)


def check_listing(repo_id: str, info: "ModelInfo") -> None:
    """Refuse a commit that is none, and files with names or sizes that no file has.

    Args:
        repo_id: for the error.
        info: the answer of the Hub, or of whatever answers in its place.

    Raises:
        CheckpointError: the answer lies.
    """
    if not is_commit_hash(info.sha):
        raise _lying(repo_id, f"the commit {info.sha!r:.60}")
    files = info.siblings or []
    if len(files) > _MAX_FILES:
        raise _lying(repo_id, f"{len(files)} files")
    for file in files:
        name, size = file.rfilename, file.size
        if str(name) != name or "\0" in name or _too_long(name.split("/")):
            raise _lying(repo_id, f"a file {name!r:.60}")
        limit = MAX_CONFIG_BYTES if name in _CONFIGS else _MAX_FILE_BYTES
        if size is not None and (type(size) is not int or not 0 <= size <= limit):
            what = format_bytes(size) if type(size) is int and size > limit else f"{size!r:.40} bytes"
            raise _lying(repo_id, f"{name} with {what}")


def _too_long(parts: Iterable[str]) -> bool:
    return any(len(part.encode(errors="surrogatepass")) > _MAX_NAME_BYTES for part in parts)


def _lying(repo_id: str, what: str) -> CheckpointError:
    return CheckpointError(
        f"the Hub says that {repo_id} has {what}, which cannot be: check HF_ENDPOINT, or name another model"
    )
