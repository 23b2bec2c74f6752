"""Memory of this process while a job runs, as a line that grows."""

from html import escape

from qtoolkit.units import format_bytes

# As many as the picture has room for; then every second one is dropped, and twice as few are taken.
_MOST_SAMPLES = 120
_WIDTH, _HEIGHT = 560, 90


class MemoryTrace:
    """Samples of the resident memory.

    Args:
        predicted: the peak that was predicted, in bytes; 0 where nothing was.

    Attributes:
        samples: bytes, at even distances in time.
        peak: the most that a sample saw, in bytes.
    """

    def __init__(self, predicted: int = 0) -> None:
        self.samples: list[int] = []
        self.peak, self._now, self._predicted = 0, 0, predicted
        self._every, self._calls = 1, 0

    def sample(self) -> None:
        """Look at the memory now."""
        from qtoolkit.measure import resident_memory

        self.add(resident_memory())

    def add(self, size: int) -> None:
        """Note a size in bytes."""
        self.peak, self._now = max(self.peak, size), size
        if self._calls % self._every == 0:
            self.samples.append(size)
        self._calls += 1
        if len(self.samples) > _MOST_SAMPLES:
            self.samples = self.samples[::2]
            self._every *= 2

    def text(self) -> str:
        """What the picture shows, in words."""
        if not self.samples:
            return ""
        told = f"memory now {format_bytes(self._now)}, at most {format_bytes(self.peak)}"
        return f"{told}, predicted at most {format_bytes(self._predicted)}" if self._predicted else told

    def picture(self) -> str:
        """The samples as inline SVG with its text; nothing before the second one."""
        if len(self.samples) < 2:
            return ""
        top = max(self.peak, self._predicted)
        step = _WIDTH / (len(self.samples) - 1)
        points = " ".join(f"{index * step:.0f},{_place(size, top)}" for index, size in enumerate(self.samples))
        line = f'<polyline points="{points}" fill="none" stroke="currentColor" stroke-width="2"/>'
        line += f'<polygon points="0,{_HEIGHT} {points} {_WIDTH},{_HEIGHT}" fill="currentColor" fill-opacity="0.1"/>'
        if self._predicted:
            level = _place(self._predicted, top)
            ends = f'x1="0" x2="{_WIDTH}" y1="{level}" y2="{level}"'
            line += f'<line {ends} stroke="currentColor" stroke-dasharray="4 3"/>'
        text = escape(self.text())
        return (
            f'<div class="qtk-text"><svg role="img" aria-label="{text}" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
            f'width="{_WIDTH}" style="max-width:100%;height:auto;display:block">{line}</svg>{text}</div>'
        )


def _place(size: int, top: int) -> int:
    """How far below the upper edge a size is drawn."""
    return round(_HEIGHT - 2 - (_HEIGHT - 4) * size / top)
