"""The line of memory: every sample or a fair selection of them, the peak exact, and the same in words."""

import re

from qtoolkit.notebook.panels.memory_chart import JobMemory, MemoryTrace
from qtoolkit.units import format_seconds


def points(trace: MemoryTrace) -> list[tuple[int, int]]:
    found = re.search(r'<polyline points="([^"]+)"', trace.picture())
    assert found is not None
    return [(int(x), int(y)) for x, y in (pair.split(",") for pair in found[1].split())]


def test_words_say_what_the_picture_shows() -> None:
    trace = MemoryTrace("memory", predicted=3_000_000)
    for seconds, size in enumerate((1_000_000, 2_500_000, 2_000_000)):
        trace.add(size, seconds)
    text = "memory now 2.0 MB, at most 2.5 MB, predicted at most 3.0 MB (dashed)"
    assert trace.text() == text
    assert trace.picture().count(text) == 2
    # Scales of bytes, from the top, and of time.
    assert "<span>3.0 MB</span><span>0</span>" in trace.picture()
    assert f"<span>0 s</span><span>{format_seconds(2)}</span>" in trace.picture()
    # From zero up to the highest of all, within the picture.
    assert [y for _, y in points(trace)] == [59, 16, 31]


def test_a_long_job_keeps_its_first_and_its_highest_and_few_points() -> None:
    trace = MemoryTrace("memory")
    for index in range(100_000):
        trace.add(9_999_999 if index == 54_321 else 1_000_000 + index, index)
    assert 60 <= len(trace.samples) <= 121
    trace.add(5_000_000, 100_000)
    # What it is now is told although no sample of it is kept.
    assert "memory now 5.0 MB" in trace.text() and 5_000_000 not in trace.samples
    assert trace.samples[0] == 1_000_000 and trace.peak == 9_999_999
    steps = {later - earlier for earlier, later in zip(trace.samples, trace.samples[1:], strict=False)}
    assert len(steps) == 1


def test_before_there_is_a_line_there_is_no_picture() -> None:
    trace = MemoryTrace("memory")
    assert (trace.text(), trace.picture()) == ("", "")
    trace.add(5, 0)
    assert trace.picture() == ""


def test_a_gpus_memory_is_drawn_once_something_is_in_it() -> None:
    memory = JobMemory(predicted_vram=4_000_000)
    for _ in range(2):
        memory.sample()
    assert memory.picture().count("<polyline") == 1 and memory.main.peak > 1_000_000
    for size in (1_000_000, 3_000_000):
        memory.gpu.add(size, 1)
    assert memory.picture().count("<polyline") == 2
    assert "GPU memory now 3.0 MB, at most 3.0 MB, predicted at most 4.0 MB" in memory.picture()
