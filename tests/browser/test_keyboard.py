"""The panel by keyboard alone: in the order in which it is read, and one sees where one is."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page

from tests.browser.lab import Lab
from tests.browser.panel import ShownPanel, open_panel
from tests.browser.server import LabServer

TABS = ("Model", "Plan", "Quantize", "Compare", "Convert", "Publish")
# What is where the keyboard is: its label or text, and whether its edge shows that it is there.
FOCUS = """() => {
    const here = document.activeElement, edge = getComputedStyle(here);
    const label = here.labels?.[0] ?? here;
    return [label.innerText.trim(), edge.outlineStyle === "solid" && parseFloat(edge.outlineWidth) >= 2];
}"""
SWITCHES, BUTTONS = (
    ("Public: everybody may see it", "Open a pull request instead"),
    ("Verify", "Dry run", "Publish", "Cancel"),
)
ORDERS = {
    "Plan": [
        *("Model", "Method", "Quantize the scales too", "Calculates in", "▸ Advanced: 2 more options"),
        *("Device", "Machine", "Made for", "All of the plan"),
    ],
    "Publish": [
        *("Folder", "Repository", "Other formats", "Licence", "Base model", "Relation to it", "Figures", "Branch"),
        *(*SWITCHES, *BUTTONS),
    ],
}


@pytest.fixture(scope="module")
def panel(page: Page, server: LabServer, tiny_llama: Path) -> Iterator[ShownPanel]:
    """A panel as it opens."""
    lab = Lab(page, server)
    lab.set_theme("light")
    yield open_panel(lab, "keys.ipynb", f"qt.panel({str(tiny_llama)!r})")
    lab.close_all()


@pytest.mark.parametrize("name", ORDERS)
def test_the_keyboard_goes_from_field_to_field_and_is_seen(page: Page, panel: ShownPanel, name: str) -> None:
    panel.turn_to("Model")
    panel.shown.get_by_role("tab", name="Model").focus()
    for _ in range(TABS.index(name)):
        page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    panel.shown.get_by_role("tab", name=name, selected=True).wait_for()
    if name == "Plan":
        panel.shown.get_by_text("All of the plan").wait_for()
    seen = []
    for _ in ORDERS[name]:
        page.keyboard.press("Tab")
        seen.append(page.evaluate(FOCUS))
    assert seen == [[label, True] for label in ORDERS[name]]
