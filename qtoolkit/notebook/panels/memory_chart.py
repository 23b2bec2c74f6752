"""Draw the memory of this process while a job runs: main memory, and a GPU's if one is used."""

import time
from dataclasses import dataclass, field
from html import escape

from qtoolkit.units import format_bytes, format_seconds

# As many points as the picture can show; beyond, every second sample is dropped, and half as many are taken.
_MAX_SAMPLES = 120
_WIDTH = 560
_HEIGHT = 90
_UNSTRETCHED = 'vector-effect="non-scaling-stroke"'


@dataclass
class MemoryTrace:
    """Samples of one kind of memory.

    Args:
        name: the kind, "memory".
        predicted: the peak in the job's plan, in bytes; 0 if unknown.

    Attributes:
        samples: bytes, at even distances in time.
        peak: the largest sample, in bytes.
        seconds: the time of the last sample, since the job began.
    """

    name: str
    predicted: int = 0
    samples: list[int] = field(default_factory=list)
    peak: int = 0
    seconds: float = 0.0
    _now: int = 0
    _every: int = 1
    _calls: int = 0

    def add(self, size: int, seconds: float) -> None:
        """Add a sample in bytes, taken so many seconds after the job began."""
        self.peak = max(self.peak, size)
        self.seconds = seconds
        self._now = size
        if self._calls % self._every == 0:
            self.samples.append(size)
        self._calls += 1
        if len(self.samples) > _MAX_SAMPLES:
            self.samples = self.samples[::2]
            self._every *= 2

    def text(self) -> str:
        """Describe the picture in one line."""
        if not self.samples:
            return ""
        sizes = f"{self.name} now {format_bytes(self._now)}, at most {format_bytes(self.peak)}"
        return f"{sizes}, predicted at most {format_bytes(self.predicted)} (dashed)" if self.predicted else sizes

    def picture(self) -> str:
        """Draw the samples as inline SVG between a scale of bytes and one of time; empty before the second sample.

        Scales are text beside the SVG, which is stretched: in a narrow cell letters keep their size.
        """
        if len(self.samples) < 2:
            return ""
        top = max(self.peak, self.predicted)
        step = _WIDTH / (len(self.samples) - 1)
        points = " ".join(f"{index * step:.0f},{_y_of(size, top)}" for index, size in enumerate(self.samples))
        line = f'<polyline points="{points}" fill="none" stroke="currentColor" stroke-width="2" {_UNSTRETCHED}/>'
        line += f'<polygon points="0,{_HEIGHT} {points} {_WIDTH},{_HEIGHT}" fill="currentColor" fill-opacity="0.1"/>'
        if self.predicted:
            level = _y_of(self.predicted, top)
            ends = f'x1="0" x2="{_WIDTH}" y1="{level}" y2="{level}"'
            line += f'<line {ends} stroke="currentColor" stroke-dasharray="4 3" {_UNSTRETCHED}/>'
        text = escape(self.text())
        shape = f'viewBox="0 0 {_WIDTH} {_HEIGHT}" preserveAspectRatio="none"'
        svg = f'<svg role="img" aria-label="{text}" {shape}>{line}</svg>'
        sizes = f"<span>{format_bytes(top)}</span><span>0</span>"
        times = f"<span>0 s</span><span>{format_seconds(self.seconds)}</span>"
        return (
            f'<div class="qtk-text qtk-chart"><div>{text}</div><div class="qtk-sizes">{sizes}</div>{svg}'
            f'<div class="qtk-times">{times}</div></div>'
        )


class JobMemory:
    """The memory that a job takes.

    Args:
        predicted_rss, predicted_vram: the peaks in its plan, in bytes; 0 if unknown.
    """

    def __init__(self, predicted_rss: int = 0, predicted_vram: int = 0) -> None:
        self._started = time.monotonic()
        self.main = MemoryTrace("memory", predicted_rss)
        self.gpu = MemoryTrace("GPU memory", predicted_vram)

    def sample(self) -> None:
        """Measure the memory in use now."""
        from qtoolkit.measure.peak import allocated_vram, resident_memory

        seconds = time.monotonic() - self._started
        self.main.add(resident_memory(), seconds)
        self.gpu.add(allocated_vram(), seconds)

    def picture(self) -> str:
        """Draw main memory, and GPU memory if any was used."""
        return self.main.picture() + (self.gpu.picture() if self.gpu.peak else "")


def _y_of(size: int, top: int) -> int:
    """Return how far below the upper edge a size is drawn."""
    return round(_HEIGHT - 2 - (_HEIGHT - 4) * size / top)
