"""Downloads files of one commit into the Hub cache, with progress, and stops when it is told to."""

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Self

from qtoolkit.hub.cache import snapshot_folder
from qtoolkit.hub.checked_bytes import bytes_to_hash, refuse_other_bytes
from qtoolkit.hub.file_download import download_file
from qtoolkit.hub.hub_errors import HubModel, translated
from qtoolkit.hub.transfer import StoppedError, transfer
from qtoolkit.records import ProgressEvent


@dataclass(frozen=True)
class Wanted:
    """A file of a commit.

    Attributes:
        name: what it is called there.
        size: bytes that have to be transferred for it; 0 when the cache holds them.
        expected: the hash by which the Hub names its content; None where it names none.
        is_there: whether the cache holds it under this name.
    """

    name: str
    size: int
    expected: str | None
    is_there: bool


class Download:
    """Files of one commit, fetched one after the other, each compared with its hash.

    Args:
        model: the repository and the token.
        commit_hash: the commit of which every file is taken.
        on_progress: called in the caller's thread about ten times a second; what it raises stops the download.

    Attributes:
        total: bytes of all files that will be transferred, and of those in the cache that were never compared.
        unnamed: files whose content the Hub names by no hash.
    """

    def __init__(self, model: HubModel, commit_hash: str, on_progress: Callable[[ProgressEvent], None]) -> None:
        self.model, self.commit_hash = model, commit_hash
        self.total = 0
        self.unnamed: list[str] = []
        self._folder = snapshot_folder(model.repo_id, commit_hash)
        self._on_progress = on_progress
        self._finished = 0
        self._received = 0

    def bytes_of(self, files: Iterable[Wanted]) -> int:
        """Bytes that the progress counts for files: of one that is in the cache, those that will be hashed."""
        return sum(
            bytes_to_hash(self._folder / file.name, file.expected) if file.is_there else file.size for file in files
        )

    def get(self, files: Iterable[Wanted]) -> None:
        """Fetch files that are missing, and compare all with their hashes.

        A file comes into the cache when it is whole. One that was interrupted starts again with the next call; within a
        call, huggingface_hub takes up a broken connection where it broke. One that has other bytes than the Hub names
        is removed and fetched once more.

        Raises:
            SourceError: the Hub does not hand a file out, or the connection breaks for good.
            CheckpointError: a file has other bytes than the Hub names.
            OutputError: the cache cannot be written.
        """
        for file in files:
            counted = self.bytes_of([file])
            if not file.is_there:
                self._get_file(file.name, file.size)
            if file.expected is None:
                self.unnamed.append(file.name)
            else:
                self._compare(file, file.expected, counted)
            self._finished += counted
            self._received = 0
            if counted or not file.is_there:
                self._report(file.name, counted)

    def _compare(self, file: Wanted, expected: str, counted: int) -> None:
        place, whole = self._folder / file.name, self._received

        def hashed(count: int) -> None:
            self._received = count if file.is_there else whole
            if counted:
                self._report(file.name, counted)

        def fetch_again() -> None:
            self._received = counted
            self._get_file(file.name, counted, again=True)

        refuse_other_bytes(place, expected, fetch_again, self.model, hashed)

    def _get_file(self, name: str, size: int, *, again: bool = False) -> None:
        def work(stopped: threading.Event) -> None:
            worker = threading.current_thread()

            def receive(count: int) -> None:
                self._received = count
                # hf_xet calls from another thread, where an exception would only be printed.
                if stopped.is_set() and threading.current_thread() is worker:
                    raise StoppedError

            bar_class = type("Bar", (_SilentBar,), {"receive": staticmethod(receive)})
            # Again, it must not be taken from where the bad one came from.
            download_file(self.model, self.commit_hash, name, again=again, tqdm_class=bar_class)

        done = transfer(work, lambda: self._report(name, size))
        with translated(self.model):
            done.result()

    def _report(self, name: str, size: int) -> None:
        done = self._finished + min(self._received, size)
        self._on_progress(ProgressEvent(phase="download", done=done, total=self.total, unit="bytes", detail=name))


class _SilentBar:
    """Stands in for tqdm, draws nothing, and hands on how many bytes have come.

    hf_xet writes in large blocks, long after their bytes came over the network (`update_transfer`): the larger count is
    the better one. For a class without `update_transfer`, hub 1.27 draws a bar of its own.
    """

    def __init__(self, **_settings: object) -> None:
        self.written = self.transferred = 0

    @staticmethod
    def receive(count: int) -> None:
        """Told of the bytes so far; each download puts its own here."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_raised: object) -> None:
        pass

    def update(self, count: float | None = 1) -> None:
        self.written += int(count or 0)
        self.receive(max(self.written, self.transferred))

    def update_transfer(self, count: float | None = 1) -> None:
        self.transferred += int(count or 0)
        self.receive(max(self.written, self.transferred))

    def set_postfix_str(self, text: str = "", *, refresh: bool = True) -> None:
        pass

    def set_transfer_postfix_str(self, text: str = "", *, refresh: bool = True) -> None:
        pass

    def close(self) -> None:
        pass
