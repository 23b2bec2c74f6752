"""Measure the most memory that this process used while something ran."""

import itertools
import sys
import threading
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self

import psutil

from qtoolkit.measure.memory_limits import status_bytes
from qtoolkit.records import PeakMemory

INTERVAL = 0.01  # seconds between two samples
# Samples of resident memory to one of CUDA's, which takes torch milliseconds that a job's own Python waits for; its
# high-water mark shows what happens between two of them.
_SAMPLES_A_CUDA_SAMPLE = 25


def resident_memory() -> int:
    """Return the bytes of this process that are in memory now, pages of mapped files included."""
    rss: int = psutil.Process().memory_info().rss
    return rss


def allocated_vram() -> int:
    """Return the bytes that torch has allocated on all CUDA devices now; 0 if CUDA is not initialised."""
    return sum(cuda.memory_allocated(index) for cuda, index in _cuda_devices())


def measure_peak() -> "PeakMeter":
    """Return a context manager that measures this process's memory while its block runs.

    Example:
        with measure_peak() as meter:
            model = load()
        print(meter.report)
    """
    return PeakMeter()


class PeakMeter:
    """Measure resident and CUDA memory of this process from the start of a `with` block to its end.

    No counter is reset, so that meters can be nested and other users of the counters are not disturbed. Two sources are
    combined:

    - The kernel records the most resident memory since the process began (`VmHWM`), and torch the most CUDA memory
      allocated. If such a mark rose during the block, it was set in the block, and it is the peak.
    - If it did not, the block stayed below an earlier peak, which the mark still shows. Then the samples of a thread
      are used. They miss a rise that ends within 10 ms (CUDA's: 250 ms), or within one call that holds Python's
      interpreter lock: torch's operations release it, `bytearray(10**9)` does not.

    Resident memory includes the pages of mapped files that are in memory, but no child processes. CUDA memory is
    measured from the moment when torch has initialised CUDA; this class imports and initialises nothing.

    Attributes:
        report: the result; set when the block ends, also if it ends with an exception.
    """

    report: PeakMemory

    def __enter__(self) -> Self:
        self._started = time.monotonic()
        self._rss_peak = 0
        self._vram_peaks: dict[int, int] = {}  # CUDA device -> most bytes allocated in a sample
        self._rss_before = self._sample()
        # Marks are read after a sample, here and at the end, so that they are never below it.
        self._rss_mark = status_bytes("VmHWM")
        self._vram_marks = {index: cuda.max_memory_allocated(index) for cuda, index in _cuda_devices()}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="qtoolkit-peak-meter", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        self.report = self._finish()

    def _watch(self) -> None:
        for count in itertools.count(1):
            if self._ended.wait(INTERVAL):
                return
            self._sample(cuda=count % _SAMPLES_A_CUDA_SAMPLE == 0)

    def _sample(self, *, cuda: bool = True) -> int:
        """Record the memory used now, that of CUDA if asked for, and return the resident bytes."""
        rss = resident_memory()
        self._rss_peak = max(self._rss_peak, rss)
        for module, index in _cuda_devices() if cuda else ():
            self._vram_peaks[index] = max(self._vram_peaks.get(index, 0), module.memory_allocated(index))
        return rss

    def _finish(self) -> PeakMemory:
        rss_after = self._sample()
        peak_rss, rss_source = _peak(
            self._rss_peak, self._rss_mark, status_bytes("VmHWM"), "kernel high-water mark", INTERVAL
        )
        devices = list(_cuda_devices())
        vram_peaks = [
            _peak(
                self._vram_peaks.get(index, 0),
                self._vram_marks.get(index, 0),
                cuda.max_memory_allocated(index),
                "high-water mark of torch's allocator",
                INTERVAL * _SAMPLES_A_CUDA_SAMPLE,
            )
            for cuda, index in devices
        ]
        return PeakMemory(
            rss_before=self._rss_before,
            rss_after=rss_after,
            peak_rss=peak_rss,
            peak_rss_source=rss_source,
            peak_vram=sum(size for size, _ in vram_peaks) if devices else None,
            vram_after=sum(cuda.memory_allocated(index) for cuda, index in devices) if devices else None,
            vram_reserved=sum(cuda.memory_reserved(index) for cuda, index in devices) if devices else None,
            seconds=time.monotonic() - self._started,
            peak_vram_source=", ".join(sorted({source for _, source in vram_peaks})),
        )


def _peak(
    sampled: int, mark_before: int | None, mark_after: int | None, mark_name: str, interval: float
) -> tuple[int, str]:
    """Return the peak in bytes and how it was measured; samples were taken every `interval` seconds."""
    if mark_before is not None and mark_after is not None and mark_after > mark_before:
        # The kernel sums its mark from counters of each processor, so it can be some pages below a sample.
        return max(mark_after, sampled), mark_name
    return sampled, f"sampled every {interval * 1000:.0f} ms"


def _cuda_devices() -> Iterator[tuple[Any, int]]:
    """Return `(torch.cuda, index)` of each device; nothing unless torch is imported and CUDA is initialised."""
    # The attributes are missing for a moment while another thread imports torch.
    cuda: Any = getattr(sys.modules.get("torch"), "cuda", None)
    is_initialized = getattr(cuda, "is_initialized", None)
    if is_initialized is not None and is_initialized():
        for index in range(cuda.device_count()):
            yield cuda, index
