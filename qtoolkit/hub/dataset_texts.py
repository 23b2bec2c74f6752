"""Text that the field calibrates with, streamed from the Hub by the package datasets."""

from collections.abc import Generator, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, constants, try_to_load_from_cache

from qtoolkit.checkpoints.hub_names import HubText
from qtoolkit.errors import HubUnreachableError, SourceError
from qtoolkit.hub.checked_bytes import cached_hash, has_hash
from qtoolkit.hub.hub_errors import HubModel, hub_address, translated
from qtoolkit.optional import optional

# Where the package datasets finds files of the Hub.
_REMOTE = "hf://datasets/"


@dataclass(frozen=True)
class _Repository(HubModel):
    """A dataset repository, as errors speak of it."""

    kind = "dataset"
    again = "run it again"

    @property
    def page(self) -> str:
        return f"{hub_address()}/datasets/{self.repo_id}"


def read_hub_text(
    name: str, text: HubText, token: str | None, *, notes: list[str], checks: list[str]
) -> Generator[Iterable[str], None, None]:
    """The documents of a text on the Hub, or in its local cache.

    Args:
        name: what the user called it.
        text: where it is.
        token: Hub token; None for the one that huggingface_hub finds.
        notes: gets what was decided, one line each.
        checks: gets whether its bytes were compared with the hash that the Hub names.

    Raises:
        SourceError: the Hub does not hand it out, or does not answer; its file in the cache is damaged.
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
        place = _find(name, text, repository, notes)
        checks.append(_compared(place, text))
        with translated(repository), _modest(datasets):
            options = {"data_files": place, "split": "train", "streaming": True, "token": token}
            for row in datasets.load_dataset(text.builder, **options):
                yield row["text"]
    except SourceError as error:
        message = f"text {name!r} cannot be read: {error}; or give a file, or 'self'"
        raise type(error)(message) from error.__cause__


def _find(name: str, text: HubText, repository: _Repository, notes: list[str]) -> str:
    """Where the file of a text can be read: in the local cache, or at one commit on the Hub.

    Raises:
        SourceError: the Hub does not hand it out, or does not answer while the cache does not have it.
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
    found = try_to_load_from_cache(
        text.repo_id, text.file, cache_dir=constants.HF_HUB_CACHE, revision=commit_hash, repo_type="dataset"
    )
    return found if isinstance(found, str) else None


def _compared(place: str, text: HubText) -> str:
    """Compare a text in the local cache with the hash that names it there, and tell so, or why that cannot be.

    Raises:
        SourceError: it has other bytes.
    """
    if place.startswith(_REMOTE):
        return f"not checked: {text.file} was read in parts, and the Hub names the hash of the whole file"
    expected = cached_hash(Path(place))
    if expected is None:
        return f"not checked: the local Hub cache names no hash of {text.file}"
    if not has_hash(Path(place), expected):
        raise SourceError(f"{place} has other bytes than its name in the cache says ({expected[:12]}): remove it")
    return f"checked: {text.file} has the hash that the local Hub cache names it by"


@contextmanager
def _modest(datasets: Any) -> Iterator[None]:
    """The package datasets without log, without its count of uses on a server, and without retries of its own.

    huggingface_hub below it tries again already, and 20 times 5 seconds more is not what a person at a notebook waits
    for. The settings are put back afterwards.
    """
    wanted = {"HF_UPDATE_DOWNLOAD_COUNTS": False, "STREAMING_READ_MAX_RETRIES": 1, "STREAMING_OPEN_MAX_RETRIES": 1}
    before = {key: getattr(datasets.config, key) for key in wanted if hasattr(datasets.config, key)}
    verbosity = datasets.utils.logging.get_verbosity()
    for key in before:
        setattr(datasets.config, key, wanted[key])
    datasets.utils.logging.set_verbosity(datasets.utils.logging.CRITICAL)
    try:
        yield
    finally:
        for key, value in before.items():
            setattr(datasets.config, key, value)
        datasets.utils.logging.set_verbosity(verbosity)
