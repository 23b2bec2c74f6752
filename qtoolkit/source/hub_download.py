"""Downloads files of one commit into the Hub cache, with progress, and stops when it is told to."""

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, wait
from typing import Self

from huggingface_hub import hf_hub_download

from qtoolkit.records import ProgressEvent
from qtoolkit.source.hub_errors import HubModel, translated

# Seconds between two reports, and how long a stopped download may take to let go of the network.
_TICK = 0.1
_PATIENCE = 5.0


class Download:
    """Files of one commit, fetched one after the other.

    huggingface_hub works in a thread of its own, and the caller's thread reports: hf_xet would swallow an exception of
    `on_progress`, a connection that hangs would delay Ctrl-C, and notebooks want their output from the cell's thread.

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
        stopped = threading.Event()
        future: Future[str] = Future()

        def receive(count: int) -> None:
            self._received = count
            # hf_xet calls from another thread, where an exception would only be printed.
            if stopped.is_set() and threading.current_thread() is worker:
                raise _StoppedError

        def work() -> None:
            try:
                bar_class = type("Bar", (_SilentBar,), {"receive": staticmethod(receive)})
                path = hf_hub_download(
                    self.model.repo_id, name, revision=self.commit_hash, token=self.model.token, tqdm_class=bar_class
                )
                future.set_result(str(path))
            except BaseException as error:  # noqa: BLE001  # raised again in the caller's thread
                future.set_exception(error)

        worker = threading.Thread(target=work, name="qtoolkit-download", daemon=True)
        try:
            worker.start()
            while not wait([future], timeout=_TICK).done:
                self._report(name, size)
        except BaseException:
            _abort_xet()
            stopped.set()
            wait([future], timeout=_PATIENCE)
            raise
        with translated(self.model):
            future.result()

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


class _StoppedError(Exception):
    """Ends a download from within; nobody sees it."""


def _abort_xet() -> None:
    """End what hf_xet transfers, as huggingface_hub itself does on Ctrl-C."""
    from huggingface_hub.utils._xet import abort_xet_session

    abort_xet_session()  # type: ignore[no-untyped-call]
