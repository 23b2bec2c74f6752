"""Points as SVG: where they stand, what tells them apart, and labels that do not lie on one another."""

import base64
import itertools
import math
from typing import NamedTuple
from xml.etree import ElementTree as ET

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from qtoolkit.records.charts import Point, scatter

pytestmark = pytest.mark.once

NAMESPACE = ' xmlns="http://www.w3.org/2000/svg"'


class Mark(NamedTuple):
    x: float
    y: float
    shape: str


def draw(points: list[Point], line: tuple[str, float] | None = None) -> ET.Element:
    """The picture as XML, which it has to be."""
    options = {"x_label": "size", "y_label": "loss", "x_text": lambda size: f"{size:g}", "line": line}
    image = ET.fromstring(scatter("title", points, **options))  # noqa: S314 our own text
    assert image.attrib["alt"] == "title"
    svg = base64.b64decode(image.attrib["src"].removeprefix("data:image/svg+xml;base64,")).decode()
    return ET.fromstring(svg.replace(NAMESPACE, ""))  # noqa: S314 our own text


def marks(picture: ET.Element) -> list[Mark]:
    """Every shape: that of a point, then the same one beside its label, from the top down."""
    found = []
    for path in picture.iter("path"):
        x, y = path.attrib["transform"].removeprefix("translate(").rstrip(")").split()
        found.append(Mark(float(x), float(y), path.attrib["d"] + path.attrib.get("fill", "")))
    return found


def labels(picture: ET.Element) -> list[tuple[float, str]]:
    """Height and text of each label, from the top down."""
    texts = [text for text in picture.iter("text") if float(text.attrib["x"]) > 400]
    return [(float(text.attrib["y"]), text.text or "") for text in texts]


def test_places_are_linear_across_and_logarithmic_up() -> None:
    picture = draw([Point("a", 100, 0.1), Point("b", 50, 0.01), Point("c", 0, 0.001)])
    (a, _, b, _, c, _) = marks(picture)
    assert a.x - b.x == pytest.approx(b.x - c.x, abs=0.11)
    assert b.y - a.y == pytest.approx(c.y - b.y, abs=0.11)
    assert a.y < b.y < c.y
    # Four marks of powers of ten, and round ones across.
    texts = [text.text for text in picture.iter("text")]
    assert {"0.1", "0.01", "0.001", "0", "50", "100", "size", "loss"} <= set(texts)


def test_points_are_told_apart_by_shape_and_led_to_their_label() -> None:
    found = marks(draw([Point(f"p{index}", index, 1 + index) for index in range(12)]))
    assert len({mark.shape for mark in found}) == 12
    assert all(point.shape == beside.shape for point, beside in zip(found[::2], found[1::2], strict=True))


def test_an_error_bar_spans_two_standard_errors() -> None:
    picture = draw([Point("a", 1, 0.05, 0.04), Point("b", 1, 0.001)])
    upright = [line.attrib for line in picture.iter("line") if line.attrib["x1"] == line.attrib["x2"] != "60.0"]
    ends = [
        sorted((float(line["y1"]), float(line["y2"])))
        for line in upright
        if abs(float(line["y1"]) - float(line["y2"])) > 5
    ]
    (high, low), decade = ends[0], marks(draw([Point("a", 1, 0.1), Point("b", 1, 0.01), Point("c", 1, 0.001)]))
    assert low - high == pytest.approx(math.log10(0.09 / 0.01) * (decade[2].y - decade[0].y), abs=0.3)


def test_a_level_is_drawn_and_named() -> None:
    picture = draw([Point("a", 1, 0.1), Point("b", 1, 0.001)], ("noise floor", 0.01))
    (dashed,) = [line for line in picture.iter("line") if "stroke-dasharray" in line.attrib]
    a, _, b, _ = marks(picture)
    assert float(dashed.attrib["y1"]) == float(dashed.attrib["y2"]) == pytest.approx((a.y + b.y) / 2, abs=0.11)
    assert "noise floor" in [text.text for text in picture.iter("text")]


def test_what_has_no_place_stands_at_the_edge_and_nan_is_left_out() -> None:
    picture = draw(
        [Point("zero", 1, 0.0), Point("inf", 2, math.inf, math.nan), Point("nan", 3, math.nan), Point("a", 1, 0.5)]
    )
    assert [label for _, label in labels(picture)] == ["inf (infinite)", "a", "zero (0)"]
    found = marks(picture)
    assert found[0].y < found[2].y < found[4].y
    assert scatter("t", [Point("nan", 1, math.nan)], x_label="", y_label="", x_text=str) == ""


def test_a_long_label_is_cut_and_text_is_escaped() -> None:
    picture = draw([Point("<b>&" + "x" * 80, 1, 1)])
    ((_, label),) = labels(picture)
    assert label.startswith("<b>&xxx") and label.endswith("…") and len(label) == 34


LEVELS = st.floats(0, 1e9) | st.just(math.inf) | st.just(math.nan) | st.sampled_from([0.5, 0.5])
POINTS = st.lists(st.builds(Point, st.text("ab<", max_size=40), st.integers(0, 10**15), LEVELS, LEVELS), max_size=30)


@example(points=[Point("", 0, math.inf, 0.0, tail=9.999999999999347e307)], line=None)
@given(points=POINTS, line=st.none() | st.tuples(st.just("floor"), st.floats(-1, 1e9)))
def test_whatever_is_drawn_stays_in_the_picture_and_no_two_labels_meet(
    points: list[Point], line: tuple[str, float] | None
) -> None:
    known = [point for point in points if not math.isnan(point.y)]
    if not known:
        return
    picture = draw(points, line)
    _, _, width, height = map(float, picture.attrib["viewBox"].split())
    assert all(0 <= mark.x <= width and 0 <= mark.y <= height for mark in marks(picture))
    heights = [y for y, _ in labels(picture)]
    assert len(heights) == len(known)
    assert all(below - above >= 15.9 for above, below in itertools.pairwise(heights))
    assert heights[0] > 0 and heights[-1] < height
    for element in picture.iter("line"):
        assert all(math.isfinite(float(element.attrib[name])) for name in ("x1", "y1", "x2", "y2"))
