"""Copy a folder to a private repository on the Hub and back, for machines that may be taken away."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

from qtoolkit.errors import ConfigError
from qtoolkit.files import sync_file, sync_folder
from qtoolkit.hub.checked_bytes import named_hash, refuse_other_bytes
from qtoolkit.hub.file_download import byte_counter
from qtoolkit.hub.hub_errors import HubUpload, translated

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoSibling


class HubMirror:
    """Push the files of one folder to a private repository, and pull those that are missing.

    Args:
        repo_id: "org/name"; created as a private repository when it does not exist.
        token: a token that may write; None for the one that huggingface_hub finds.
    """

    def __init__(self, repo_id: str, token: str | None) -> None:
        self._model = HubUpload(repo_id, token=token)
        self._api = HfApi(token=token)
        self.repo_id = repo_id

    def pull(self, folder: Path, *, first: str) -> None:
        """Create the repository if it is missing, and download the files that the folder does not have.

        Args:
            folder: where the files are written.
            first: the file that describes the others, and is therefore downloaded before them.

        Raises:
            ConfigError: the repository is public.
            SourceError: the Hub does not answer, or refuses.
        """
        with translated(self._model), without_bars():
            self._api.create_repo(self.repo_id, private=True, exist_ok=True)
            info = self._api.model_info(self.repo_id, files_metadata=True)
            if not info.private:
                raise ConfigError(f"resume_repo {self.repo_id} is public: name a private one, or one that is not there")
            files = {entry.rfilename: entry for entry in info.siblings or [] if "/" not in entry.rfilename}
            # Weights count as finished once their .json file exists, so it comes after them.
            for name in sorted(files, key=lambda name: (name != first, name.endswith(".json"), name)):
                if not name.startswith(".") and not (folder / name).exists():
                    self._fetch(files[name], folder, info.sha)

    def _fetch(self, file: "RepoSibling", folder: Path, commit_hash: str | None) -> None:
        """Download a file into a temporary folder, compare its hash, sync it, and move it to its place."""
        with TemporaryDirectory(dir=folder) as temporary:
            downloaded = Path(temporary) / file.rfilename

            fetch = partial(
                self._api.hf_hub_download,
                self.repo_id,
                file.rfilename,
                local_dir=temporary,
                revision=commit_hash,
                tqdm_class=byte_counter(f"{file.rfilename} of {self.repo_id}", file.size),
            )
            fetch()
            expected = named_hash(file)
            if expected is not None:
                refuse_other_bytes(downloaded, expected, partial(fetch, force_download=True), self._model)
            sync_file(downloaded)
            downloaded.replace(folder / file.rfilename)
        sync_folder(folder)

    def push(self, files: Sequence[Path]) -> None:
        """Upload files in one commit.

        Raises:
            SourceError: the Hub does not answer, or refuses.
        """
        added = [CommitOperationAdd(file.name, file) for file in files]
        with translated(self._model), without_bars():
            self._api.create_commit(self.repo_id, added, commit_message=f"{files[-1].stem}")


@contextmanager
def without_bars() -> Iterator[None]:
    """Turn off the progress bars of huggingface_hub, which would appear among the job's own; restore them after."""
    if are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()
