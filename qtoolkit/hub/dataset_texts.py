"""Stream the usual calibration texts from the Hub, or from its local cache, with the package datasets."""

from collections.abc import Generator, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, constants, try_to_load_from_cache

from qtoolkit.checkpoints.hub_names import HubText
from qtoolkit.errors import HubUnreachableError, SourceError
from qtoolkit.hub.checked_bytes import cached_hash, has_hash
from qtoolkit.hub.hub_errors import HubModel, translated
from qtoolkit.optional import optional

# How the package datasets addresses files of the Hub.
_REMOTE = "hf://datasets/"


@dataclass(frozen=True)
class _Repository(HubModel):
    """Describe a dataset repository for error messages."""

    kind = "dataset"
    again = "run it again"
    path = "datasets/{repo_id}"


def read_hub_text(
    name: str, text: HubText, token: str | None, *, notes: list[str], checks: list[str]
) -> Generator[Iterable[str], None, None]:
    """Read the documents of a text on the Hub, or in its local cache.

    Args:
        name: the user's name for it, such as "c4".
        text: its repository and file.
        token: Hub token; None for the one that huggingface_hub finds.
        notes: list to which notes for the user are appended, one line each.
        checks: list to which is appended whether its bytes were compared with the hash that the Hub names.

    Raises:
        SourceError: the Hub does not hand it out, or does not answer; its cached file is damaged.
        MissingDependencyError: the package datasets is not installed.
    """
    with closing(_rows(name, text, token, notes, checks)) as rows:
        if text.rows_are_documents:
            for row in rows:
                yield (row,)
        else:
            yield (f"{row}\n\n" for row in rows)


def _rows(
    name: str, text: HubText, token: str | None, notes: list[str], checks: list[str]
) -> Generator[str, None, None]:
    datasets = optional("datasets", f"text {name!r}")
    repository = _Repository(text.repo_id, token=token)
    try:
        path = _locate(name, text, repository, notes)
        checks.append(_compare(path, text))
        with translated(repository), _quiet_without_retries(datasets):
            rows = datasets.load_dataset(text.builder, data_files=path, split="train", streaming=True, token=token)
            for row in rows:
                yield row["text"]
    except SourceError as error:
        message = f"text {name!r} cannot be read: {error}; or give a file, or 'self'"
        raise type(error)(message) from None


def _locate(name: str, text: HubText, repository: _Repository, notes: list[str]) -> str:
    """Return the path of a text's file in the local cache, or its address at one commit on the Hub.

    Raises:
        SourceError: the Hub does not hand it out, or does not answer while the file is not cached.
    """
    try:
        with translated(repository):
            timeout = constants.HF_HUB_ETAG_TIMEOUT
            commit_hash = HfApi().dataset_info(text.repo_id, timeout=timeout, token=repository.token).sha
            if commit_hash is None:
                raise ValueError("no commit")
    except HubUnreachableError as error:
        cached = _cached(text, None)
        if cached is None:
            raise
        notes.append(f"{name} was taken from the local cache, since {error}")
        return cached
    notes.append(f"{name} is {text.file} of {text.repo_id} at commit {commit_hash[:12]}")
    return _cached(text, commit_hash) or f"{_REMOTE}{text.repo_id}@{commit_hash}/{text.file}"


def _cached(text: HubText, commit_hash: str | None) -> str | None:
    path = try_to_load_from_cache(
        text.repo_id, text.file, cache_dir=constants.HF_HUB_CACHE, revision=commit_hash, repo_type="dataset"
    )
    return path if isinstance(path, str) else None


def _compare(path: str, text: HubText) -> str:
    """Compare a cached text with the hash that names it in the cache, and return what a report says of that.

    Raises:
        SourceError: it has other bytes.
    """
    if path.startswith(_REMOTE):
        return f"not checked: {text.file} was read in parts, and the Hub names the hash of the whole file"
    expected = cached_hash(Path(path))
    if expected is None:
        return f"not checked: the local Hub cache names no hash of {text.file}"
    if not has_hash(Path(path), expected):
        raise SourceError(f"{path} has other bytes than its name in the cache says ({expected[:12]}): remove it")
    return f"checked: {text.file} has the hash that the local Hub cache names it by"


@contextmanager
def _quiet_without_retries(datasets: Any) -> Iterator[None]:
    """Turn off the log, the usage statistics and the retries of the package datasets, and restore them afterwards.

    huggingface_hub below it retries already, and 20 more times 5 seconds are too long for a person at a notebook.
    """
    options = {"HF_UPDATE_DOWNLOAD_COUNTS": False, "STREAMING_READ_MAX_RETRIES": 1, "STREAMING_OPEN_MAX_RETRIES": 1}
    before = {key: getattr(datasets.config, key) for key in options if hasattr(datasets.config, key)}
    verbosity = datasets.utils.logging.get_verbosity()
    for key in before:
        setattr(datasets.config, key, options[key])
    datasets.utils.logging.set_verbosity(datasets.utils.logging.CRITICAL)
    try:
        yield
    finally:
        for key, value in before.items():
            setattr(datasets.config, key, value)
        datasets.utils.logging.set_verbosity(verbosity)
