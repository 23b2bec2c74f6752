"""The picture of before and after: bars to one scale, with their text beside them as text."""

import re
from xml.etree import ElementTree as ET

import pytest

from qtoolkit.records import MemoryReport, html

pytestmark = pytest.mark.once


def widths(picture: str) -> list[float]:
    """The width of each bar in percent of its track; the picture is well-formed XML."""
    styles = [div.attrib["style"] for div in ET.fromstring(picture).findall("tr/td/div/div")]  # noqa: S314 our own text
    return [float(style.rpartition("width:")[2].rstrip("%")) for style in styles]


def texts(picture: str) -> list[str]:
    cells = [cell for line in ET.fromstring(picture) for cell in line]  # noqa: S314 our own text
    return [cell.text or "" for cell in cells if not len(cell)]


def test_bars_are_drawn_to_one_scale() -> None:
    assert widths(html.bars("t", [("a", 200, ""), ("b", 50, ""), ("c", 0, "")])) == [100, 25, 0]


def test_a_tiny_bar_can_be_seen_and_a_picture_of_nothing_drawn() -> None:
    assert widths(html.bars("t", [("a", 10**12, ""), ("b", 1, "")]))[1] > 0
    assert widths(html.bars("t", [("a", 0, "")])) == [0]


def test_labels_and_values_are_text_beside_the_bars() -> None:
    assert texts(html.bars("t", [("before", 2, "2 MB"), ("after", 1, "1 MB")])) == ["before", "2 MB", "after", "1 MB"]


EVIL = '<script>alert("x")</script>'


@pytest.mark.parametrize(
    "drawn",
    [html.bars(EVIL, [(EVIL, 1, EVIL)]), html.table(EVIL, [(EVIL, EVIL, EVIL)])],
    ids=["bars", "table"],
)
def test_text_is_escaped(drawn: str) -> None:
    assert drawn.count("&lt;script&gt;") >= 3
    assert "<script" not in drawn
    ET.fromstring(drawn)  # noqa: S314 our own text


def test_a_report_shows_its_footprints_and_no_figure_that_its_rows_lack() -> None:
    report = MemoryReport(num_parameters=100, footprint_before=2_000_000, footprint_after=500_000)
    picture = report.picture()
    assert report.headline() == "2.0 MB to 500.0 kB in memory, 4.00 times smaller"
    assert widths(picture) == [100, 25]
    shown = set(re.findall(r"[\d.]+ [kMG]B", " ".join(texts(picture))))
    assert shown == {"2.0 MB", "500.0 kB"}
    assert shown <= {row.value for row in report.rows()}
    assert picture in report._repr_html_()
