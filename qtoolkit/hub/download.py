"""Download files of one commit into the Hub cache and compare their hashes, with progress, until told to stop."""

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from qtoolkit.errors import CheckpointError
from qtoolkit.hub.cache import snapshot_folder
from qtoolkit.hub.checked_bytes import bytes_to_hash, has_hash, refuse_other_bytes
from qtoolkit.hub.file_download import download_file
from qtoolkit.hub.hub_errors import HubModel, translated
from qtoolkit.hub.transfer import StoppedError, transfer
from qtoolkit.records import ProgressEvent


@dataclass(frozen=True)
class RepoFile:
    """One file of a commit, as the Hub or the local cache describes it.

    Attributes:
        name: its name in the repository.
        expected: the hash that names its content; None where there is none.
        is_cached: whether the cache holds it under this name.
        size: bytes that the Hub lists; None where it lists none, or was not asked.
        to_transfer: bytes that have to be downloaded; 0 when the cache holds them.
    """

    name: str
    expected: str | None
    is_cached: bool
    size: int | None = None
    to_transfer: int = 0


@dataclass
class Download:
    """Fetch files of one commit one after the other, and compare each with its hash.

    Attributes:
        model: the repository and the token.
        commit_hash: the commit of which every file is taken.
        on_progress: called in the caller's thread about ten times a second; what it raises stops the download.
        is_offline: compare what is cached, and fetch nothing.
        total: bytes of all files that will be downloaded, and of cached ones that were never hashed.
        unnamed: files whose content no hash names.
    """

    model: HubModel
    commit_hash: str
    on_progress: Callable[[ProgressEvent], None]
    is_offline: bool = False
    total: int = 0
    unnamed: list[str] = field(default_factory=list)
    _finished: int = field(default=0, init=False)
    _received: int = field(default=0, init=False)

    def bytes_of(self, files: Iterable[RepoFile]) -> int:
        """Return the bytes that the progress counts for files: of a cached one, those that will be hashed."""
        folder = snapshot_folder(self.model.repo_id, self.commit_hash)
        return sum(
            bytes_to_hash(folder / file.name, file.expected) if file.is_cached else file.to_transfer for file in files
        )

    def get(self, files: Iterable[RepoFile]) -> None:
        """Fetch files that are missing, and compare all with their hashes.

        A file appears in the cache when it is complete. One that was interrupted starts again with the next call;
        within a call, huggingface_hub resumes a broken connection where it broke. One that has other bytes than the Hub
        names is removed and fetched once more.

        Raises:
            SourceError: the Hub does not hand a file out, or the connection breaks for good.
            CheckpointError: a file has other bytes than its hash says.
            OutputError: the cache cannot be written.
        """
        for file in files:
            counted = self.bytes_of([file])
            if not file.is_cached:
                self._get_file(file, counted)
            if file.expected is None:
                self.unnamed.append(file.name)
            else:
                self._compare(file, file.expected, counted)
            self._finished += counted
            self._received = 0
            if counted or not file.is_cached:
                self._report(file.name, counted)

    def _compare(self, file: RepoFile, expected: str, counted: int) -> None:
        path = snapshot_folder(self.model.repo_id, self.commit_hash) / file.name
        received = self._received

        def on_hashed(count: int) -> None:
            self._received = count if file.is_cached else received
            if counted:
                self._report(file.name, counted)

        def fetch_again() -> None:
            self._received = counted
            self._get_file(file, counted, again=True)

        if not self.is_offline:
            refuse_other_bytes(path, expected, fetch_again, self.model, on_hashed)
        elif not has_hash(path, expected, on_hashed):
            raise CheckpointError(
                f"{file.name} of {self.model.repo_id} has other bytes in the local cache than its name there says "
                f"({expected[:12]}): run it again when the Hub can be asked, which fetches it anew"
            )

    def _get_file(self, file: RepoFile, counted: int, *, again: bool = False) -> None:
        def work(stopped: threading.Event) -> None:
            worker = threading.current_thread()

            def receive(count: int) -> None:
                self._received = count
                # hf_xet calls from another thread, where an exception would only be printed.
                if stopped.is_set() and threading.current_thread() is worker:
                    raise StoppedError

            # `again`, since it must not be taken from the cache that the bad one came from.
            download_file(self.model, self.commit_hash, file.name, max_bytes=file.size, on_bytes=receive, again=again)

        done = transfer(work, lambda: self._report(file.name, counted))
        with translated(self.model):
            done.result()

    def _report(self, name: str, counted: int) -> None:
        done = self._finished + min(self._received, counted)
        self.on_progress(ProgressEvent(phase="download", done=done, total=self.total, unit="bytes", detail=name))
