"""A frontier as a record: which recipes dominate which, its picture and tables, and texts that anybody wrote."""

import base64
import itertools
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qtoolkit.records import Compared, Frontier, Unmeasured, by_size
from tests.records.test_comparison import SOURCE, quality

pytestmark = pytest.mark.once


def result(label: str, disk: int | None, kl: float, error: float = 0.001, **changes: Any) -> Compared:
    report = quality(kl, kl_divergence_se=error, kl_divergence_p999=10 * kl, kl_divergence_p999_se=kl)
    return Compared(label, "m", {}, "cpu", footprint=disk, memory=disk, disk=disk, quality=report, **changes)


def frontier(*results: Compared, **changes: Any) -> Frontier:
    return Frontier(SOURCE, "text", "f" * 64, by_size(results), **changes)


def labels(found: Frontier) -> list[str]:
    return [one.label for one in found.frontier]


def test_what_is_larger_and_loses_no_less_is_dominated_by_what_loses_least() -> None:
    found = frontier(result("c", 300, 0.1), result("a", 100, 0.5), result("x", 320, 0.3), result("b", 200, 0.2))
    assert labels(found) == ["a", "b", "c"]
    assert [found.dominator(one) for one in found.frontier] == [None] * 3
    better = found.dominator(found.results[-1])
    assert better is not None and better.label == "c"
    assert [line[-2] for line in found.grids()[0].lines] == ["yes", "yes", "yes", "no: c"]


def test_of_equal_sizes_the_one_that_loses_less_stays_and_so_does_the_smaller_of_equal_losses() -> None:
    assert labels(frontier(result("more", 100, 0.2), result("less", 100, 0.1))) == ["less"]
    assert labels(frontier(result("large", 101, 0.1), result("small", 100, 0.1))) == ["small"]


def test_of_two_that_are_equal_in_both_neither_dominates() -> None:
    assert labels(frontier(result("b", 100, 0.1), result("a", 100, 0.1))) == ["a", "b"]


def test_a_difference_within_the_errors_is_told() -> None:
    # sqrt(0.03**2 + 0.04**2) = 0.05
    def verdict(loss: float) -> str:
        found = frontier(result("good", 100, 0.1, error=0.03), result("bad", 120, loss, error=0.04))
        return str(found.grids()[0].lines[1][-2])

    assert verdict(0.149) == "no: good, though within the errors"
    assert verdict(0.151) == "no: good"


def test_what_was_not_measured_is_on_no_frontier_and_dominates_nothing() -> None:
    failed = Compared("failed", "m", {}, "cpu", error="ConfigError: no")
    odd = result("odd", 50, math.nan)
    unsized = result("unsized", None, 0.01)
    found = frontier(failed, odd, unsized, result("a", 100, 0.5), result("inf", 90, math.inf))
    assert labels(found) == ["inf", "a"]
    assert [one.label for one in found.results[:2]] == ["inf", "a"]
    assert "ConfigError: no" in str(found)
    for few in (frontier(), frontier(failed)):
        assert few.picture() == "" and "org/name" in str(few) and few._repr_html_().startswith("<div>")


SMALL = st.lists(st.tuples(st.integers(1, 4), st.integers(0, 3).map(float)), min_size=1, max_size=8)


@settings(max_examples=40, deadline=None)
@given(points=SMALL)
def test_the_frontier_is_what_a_plain_search_finds(points: list[tuple[int, float]]) -> None:
    found = frontier(*(result(str(index), size, loss) for index, (size, loss) in enumerate(points)))
    best = {
        index
        for index, (size, loss) in enumerate(points)
        if not any((s < size and k <= loss) or (s <= size and k < loss) for s, k in points)
    }
    assert {int(one.label) for one in found.frontier} == best
    losses = [one.kl_divergence for one in found.frontier]
    assert losses == sorted(losses, reverse=True)  # type: ignore[type-var]


def drawn(found: Frontier) -> ET.Element:
    """The picture as XML."""
    data = re.search(r'src="data:image/svg\+xml;base64,([^"]+)"', found.picture())
    assert data is not None
    svg = base64.b64decode(data[1]).decode().replace(' xmlns="http://www.w3.org/2000/svg"', "")
    return ET.fromstring(svg)  # noqa: S314 our own text


LOSSES = st.floats(0, 1e6) | st.just(math.inf)
RESULTS = st.builds(result, st.text("ab<&\x1b", max_size=50), st.integers(1, 10**14), LOSSES, LOSSES)


@settings(max_examples=30, deadline=None)
@given(results=st.lists(RESULTS, min_size=1, max_size=12))
def test_every_point_and_step_lies_in_the_picture(results: list[Compared]) -> None:
    found = frontier(*results)
    picture = drawn(found)
    _, _, width, height = map(float, picture.attrib["viewBox"].split())
    places = [path.attrib["transform"] for path in picture.iter("path") if "transform" in path.attrib]
    points = [tuple(map(float, place.removeprefix("translate(").rstrip(")").split())) for place in places]
    assert len(points) == 2 * len(results)
    assert all(0 <= x <= width and 0 <= y <= height for x, y in points)
    for line in picture.iter("line"):
        assert all(0 <= float(line.attrib[name]) <= width for name in ("x1", "x2"))
        assert all(0 <= float(line.attrib[name]) <= height for name in ("y1", "y2"))
    (steps,) = [path.attrib["d"] for path in picture.iter("path") if "transform" not in path.attrib]
    across = [float(x) for x in re.findall(r"[MH](-?[\d.]+)", steps)]
    assert across == sorted(across) and across[0] >= 0 and across[-1] <= width
    assert all(0 <= float(y) <= height for y in re.findall(r"V(-?[\d.]+)", steps))
    heights = sorted(float(text.attrib["y"]) for text in picture.iter("text") if float(text.attrib["x"]) > 400)
    assert all(below - above >= 15.9 for above, below in itertools.pairwise(heights))


def test_the_line_goes_through_the_frontier_alone_and_the_dominated_are_grey_outlines() -> None:
    found = frontier(result("a", 100, 0.5), result("b", 200, 0.05), result("x", 150, 0.9))
    picture = drawn(found)
    shapes = {}
    for path in picture.iter("path"):
        if "transform" in path.attrib:
            x, y = path.attrib["transform"].removeprefix("translate(").rstrip(")").split()
            if float(x) < 400:
                shapes[float(x), float(y)] = (path.attrib["stroke"], path.attrib["fill"])
    (steps,) = [path.attrib["d"] for path in picture.iter("path") if "transform" not in path.attrib]
    corners = {(float(x), float(y)) for x, y in re.findall(r"[MH](\S+?)(?: [\d.]+)?V([\d.]+)", steps)}
    assert corners == {place for place, (stroke, _) in shapes.items() if stroke == "#1a7acc"}
    assert len(corners) == 2
    assert set(shapes.values()) == {("#1a7acc", "#1a7acc"), ("currentColor", "none")}
    # What 99.9 % lie below is a bar of its own above each point.
    assert len([line for line in picture.iter("line") if "1 3" in line.attrib.get("stroke-dasharray", "")]) == 3


def test_the_picture_is_told_in_words() -> None:
    found = frontier(result("GPTQ(bits=3)", 100_000_000, 0.25), result("AbsMax()", 130_000_000, 0.5))
    alternative = "On the frontier: GPTQ(bits=3) with 100.0 MB, 0.2500 ± 0.0010 nats"
    assert f'alt="KL divergence against the size of the weight files. {alternative}"' in found.picture()
    assert drawn(found).findtext("title", "").endswith(alternative)
    assert "<script" not in found.picture()


HOSTILE = '<img src=x onerror="alert(1)">|`[a](b)\x1b[2J'


def test_names_that_anybody_wrote_are_shown_as_text() -> None:
    found = frontier(
        result(HOSTILE, 100, 0.5),
        replace(result("b", 200, 0.1), error=HOSTILE),
        unmeasured=(Unmeasured(HOSTILE, 1, 2, HOSTILE),),
        notes=(HOSTILE,),
    )
    found = replace(found, source=replace(SOURCE, name=HOSTILE), text=HOSTILE)
    assert "<img src=x" not in found._repr_html_() and "\x1b" not in found._repr_html_() + str(found)
    markdown = found.to_markdown()
    assert "<img" not in markdown and "[a](b)" not in markdown
    assert drawn(found).findtext("title")


def test_markdown_is_a_table_with_every_result() -> None:
    markdown = frontier(result("a", 100, 0.5), result("b", 200, 0.1)).to_markdown()
    head, rule, *lines = markdown.splitlines()
    assert head.startswith("| recipe | weight files |")
    assert rule.count("---|") == head.count(" |")
    assert [line.split(" | ")[0] for line in lines[:2]] == ["| a", "| b"]
    assert all(line.count(" |") == head.count(" |") for line in lines[:2])
    assert "99.9 %" in head and "5.00 ± 0.50" in lines[0]


def test_the_picture_is_a_file_too(tmp_path: Path) -> None:
    path = frontier(result("a", 100, 0.5)).to_svg(tmp_path / "f.svg")
    assert ET.fromstring(path.read_text(encoding="utf-8")).tag.endswith("svg")  # noqa: S314 our own text


def test_what_was_wanted_and_what_was_left_out_are_rows() -> None:
    left = Unmeasured("GPTQ(bits=8)", 200_000_000, None, "takes more than 150.0 MB to use")
    text = str(frontier(result("a", 100, 0.5), unmeasured=(left,), memory_limit=150_000_000))
    assert "memory to use at most 150.0 MB" in text
    assert "GPTQ(bits=8)  200.0 MB" in text and left.reason in text
    assert "weight files near 90.0 MB, 120.0 MB" in str(frontier(sizes=(90_000_000, 120_000_000)))


def test_it_is_told_in_one_sentence_first() -> None:
    found = frontier(result("c", 300, 0.1), result("a", 100, 0.5), result("x", 320, 0.3))
    ends = "from a (100 bytes, 0.5000 ± 0.0010 nats) to c (300 bytes, 0.1000 ± 0.0010 nats)."
    assert found.headline() == f"2 of 3 recipes are worth their size: {ends}"
    one = frontier(result("a", 100, 0.5))
    assert one.headline() == "1 of 1 recipe is worth its size: a (100 bytes, 0.5000 ± 0.0010 nats)."
    assert frontier().headline() == "No recipe was measured: below stands why."
