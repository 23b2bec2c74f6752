"""The line of memory: every sample or a fair selection of them, the peak exact, and the same in words."""

import re

from qtoolkit.notebook.panels.memory_chart import MemoryTrace


def points(trace: MemoryTrace) -> list[tuple[int, int]]:
    found = re.search(r'<polyline points="([^"]+)"', trace.picture())
    assert found is not None
    return [(int(x), int(y)) for x, y in (pair.split(",") for pair in found[1].split())]


def test_words_say_what_the_picture_shows() -> None:
    trace = MemoryTrace(predicted=3_000_000)
    for size in (1_000_000, 2_500_000, 2_000_000):
        trace.add(size)
    text = "memory now 2.0 MB, at most 2.5 MB, predicted at most 3.0 MB"
    assert trace.text() == text
    assert trace.picture().count(text) == 2
    # From zero up to the highest of all, within the picture.
    assert [y for _, y in points(trace)] == [59, 16, 31]


def test_a_long_job_keeps_its_first_and_its_highest_and_few_points() -> None:
    trace = MemoryTrace()
    for index in range(100_000):
        trace.add(9_999_999 if index == 54_321 else 1_000_000 + index)
    assert 60 <= len(trace.samples) <= 121
    # What it is now is told even when no sample of it is kept.
    assert "memory now 1.1 MB" in trace.text() and trace.samples[-1] != 1_099_999
    assert trace.samples[0] == 1_000_000 and trace.peak == 9_999_999
    steps = {later - earlier for earlier, later in zip(trace.samples, trace.samples[1:], strict=False)}
    assert len(steps) == 1


def test_before_there_is_a_line_there_is_no_picture() -> None:
    trace = MemoryTrace()
    assert (trace.text(), trace.picture()) == ("", "")
    trace.add(5)
    assert trace.picture() == ""
