"""Records as HTML: every text is escaped, wherever it stands, and the picture can be heard."""

import base64
from html.parser import HTMLParser

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qtoolkit.records import Check, LayerPlan, MemoryReport, Record, Verification
from qtoolkit.records.html import visible
from tests.records.examples import RECORDS, any_record, record_of_text

pytestmark = pytest.mark.once

EACH = pytest.mark.parametrize("kind", RECORDS.values(), ids=RECORDS)
DRAWN = settings(deadline=None, max_examples=5, suppress_health_check=[HealthCheck.too_slow])
# What ends a text, an attribute or a comment, and then runs.
ATTACKS = (
    "<script>alert(1)</script>",
    "\"><img src=x onerror='alert(1)'>",
    "'><svg onload=alert(1)>",
    "--></style></td></table><a href='javascript:alert(1)'>",
)
ELEMENTS = {"div", "table", "tr", "th", "td", "span", "svg", "rect", "title", "line", "path", "text", "img"}
ELEMENTS |= {"details", "summary", "i", "b", "caption", "ul", "li"}
ATTRIBUTES = {"style", "scope", "aria-label", "role", "aria-hidden", "width", "height", "fill", "fill-opacity"}
ATTRIBUTES |= {
    "viewbox",
    "x",
    "y",
    "x1",
    "x2",
    "y1",
    "y2",
    "d",
    "transform",
    "stroke",
    "stroke-opacity",
    "stroke-width",
}
ATTRIBUTES |= {"stroke-dasharray", "font-size", "text-anchor", "font-family", "color", "xmlns", "alt", "src"}


class Page(HTMLParser):
    """What a browser would see of a page: its elements with their attributes, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data + "\n"

    def handle_comment(self, data: str) -> None:
        raise AssertionError(data)


def drawn_in(source: str) -> str:
    """The SVG in the address of an image, which is no other address."""
    kind, _, data = source.partition(",")
    assert kind == "data:image/svg+xml;base64"
    return base64.b64decode(data).decode()


def assert_inert(page: Page) -> None:
    assert {tag for tag, _ in page.elements} <= ELEMENTS
    for _, attributes in page.elements:
        assert attributes.keys() <= ATTRIBUTES
        assert "url(" not in (attributes.get("style") or "")
        if source := attributes.get("src"):
            assert_inert(Page(drawn_in(source)))


@EACH
@pytest.mark.parametrize("attack", ATTACKS, ids=["script", "double quote", "single quote", "end of all"])
@DRAWN
@given(data=st.data())
def test_text_that_attacks_stays_text(kind: type[Record], attack: str, data: st.DataObject) -> None:
    record = data.draw(record_of_text(kind, attack))
    page = Page(record._repr_html_())
    assert_inert(page)
    # It is shown as it is.
    assert any(attack in text for row in record.rows() for text in row)
    assert attack in page.text


@EACH
@DRAWN
@given(data=st.data())
def test_html_and_text_hold_every_row(kind: type[Record], data: st.DataObject) -> None:
    record = data.draw(any_record(kind))
    page = Page(record._repr_html_())
    assert_inert(page)
    assert kind.__name__ in page.text
    # The parser reads a carriage return as a line break.
    squeezed = page.text.replace("\r\n", "\n").replace("\r", "\n")
    for row in record.rows():
        for text in map(visible, row):
            assert text in str(record)
            assert text.replace("\r\n", "\n").replace("\r", "\n") in squeezed


def test_a_picture_begins_with_what_it_shows() -> None:
    page = Page(MemoryReport(100, 400, 100).picture())
    assert [tag for tag, _ in page.elements[:2]] == ["table", "caption"]
    shown = ["Memory footprint: all weights of the model", "before", "400 bytes", "after", "100 bytes"]
    assert page.text.split("\n")[:5] == shown


def test_what_failed_stands_out() -> None:
    failed, passed = Check("no code", False, "it has some")._repr_html_(), Check("no code", True, "none")._repr_html_()
    assert "<b>✖ FAILED</b>" in failed and "✖" not in passed
    checks = (Check("no code", False, "it has some", "remove it"), Check("no pickles", True, "none"))
    shown = Verification("small", checks)._repr_html_()
    # Before what is folded: the sentence, and the reason.
    seen = Page(shown.partition("<details")[0] + "</div>").text
    assert "✖ 1 of 2 checks of small FAILED: no code." in seen and "no code: it has some; remove it" in seen
    assert "no pickles" not in seen and "solid" not in Verification("small", checks[1:])._repr_html_()


def test_what_failed_and_what_was_not_checked_are_named_where_they_are_counted() -> None:
    checks = (Check("no code", False, "it has some"), Check("licence", None, "", "none is named"))
    said = "✖ 1 of 2 checks of small FAILED: no code; not made: licence. It cannot be published until they pass."
    assert Verification("small", checks).headline() == said
    assert Verification("small", checks[1:]).headline() == "small: 0 of 1 checks passed; not made: licence."
    assert Verification("small", (Check("no code", True, ""),)).headline() == "small: all 1 checks passed."


def test_a_record_with_a_sentence_folds_the_rest() -> None:
    report = MemoryReport(100, 400, 100)
    shown = report._repr_html_()
    page = Page(shown)
    assert page.text.startswith(report.headline())
    assert shown.index("<details") < shown.index("bits per weight")
    assert all(meaning in page.text and meaning in str(report) for meaning in report.words.values())


def test_a_record_without_picture_is_a_table_alone() -> None:
    record = LayerPlan("a", (2, 3), 6, 12, 3, 3)
    assert "svg" not in {tag for tag, _ in Page(record._repr_html_()).elements}


def test_nothing_is_loaded_from_elsewhere() -> None:
    page = Page(MemoryReport(100, 400, 100)._repr_html_())
    assert "http" not in str(page.elements)
