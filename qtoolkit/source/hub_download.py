"""Downloads files of one commit into the Hub cache, with progress, and stops when it is told to."""

import threading
from collections.abc import Callable, Mapping
from typing import Self

from huggingface_hub import hf_hub_download

from qtoolkit.records import ProgressEvent
from qtoolkit.source.hub_errors import HubModel, translated
from qtoolkit.source.hub_transfer import StoppedError, transfer


class Download:
    """Files of one commit, fetched one after the other.

    Args:
        model: the repository and the token.
        commit_hash: the commit of which every file is taken.
        total: bytes of all files that will be asked for.
        on_progress: called in the caller's thread about ten times a second; what it raises stops the download.
    """

    def __init__(
        self, model: HubModel, commit_hash: str, total: int, on_progress: Callable[[ProgressEvent], None]
    ) -> None:
        self.model, self.commit_hash, self.total = model, commit_hash, total
        self._on_progress = on_progress
        self._finished = 0
        self._received = 0

    def get(self, files: Mapping[str, int]) -> None:
        """Fetch files by name, each with the bytes that have to be transferred for it.

        A file comes into the cache when it is whole. One that was interrupted starts again with the next call; within a
        call, huggingface_hub takes up a broken connection where it broke.

        Raises:
            SourceError: the Hub does not hand a file out, or the connection breaks for good.
            OutputError: the cache cannot be written.
        """
        for name, size in files.items():
            self._get_file(name, size)
            self._finished += size
            self._received = 0
            self._report(name, size)

    def _get_file(self, name: str, size: int) -> None:
        def work(stopped: threading.Event) -> None:
            worker = threading.current_thread()

            def receive(count: int) -> None:
                self._received = count
                # hf_xet calls from another thread, where an exception would only be printed.
                if stopped.is_set() and threading.current_thread() is worker:
                    raise StoppedError

            bar_class = type("Bar", (_SilentBar,), {"receive": staticmethod(receive)})
            hf_hub_download(
                self.model.repo_id, name, revision=self.commit_hash, token=self.model.token, tqdm_class=bar_class
            )

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
