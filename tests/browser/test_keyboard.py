"""The panel by keyboard alone: in the order in which it is read, and one sees where one is."""

from pathlib import Path

import pytest

from tests.browser.lab import Lab
from tests.browser.panel import open_panel

TABS = ("Model", "Plan", "Quantize", "Compare", "Convert", "Publish")
# What is where the keyboard is: its label or text, and whether its edge shows that it is there.
FOCUS = """() => {
    const here = document.activeElement, edge = getComputedStyle(here);
    const label = here.labels?.[0] ?? here;
    return [label.innerText.trim(), edge.outlineStyle === "solid" && parseFloat(edge.outlineWidth) >= 2];
}"""
SWITCHES, BUTTONS = ("Everybody may see it", "Open a pull request instead"), ("Verify", "Dry run", "Publish", "Cancel")
ORDERS = {
    "Plan": [
        *("Model", "Method", "double_quant", "compute_dtype", "▸ Advanced: 2 more options"),
        *("Device", "Machine", "Made for", "All of the plan"),
    ],
    "Publish": [
        *("Folder", "Repository", "Other formats", "Licence", "Base model", "Relation to it", "Figures", "Branch"),
        *(*SWITCHES, *BUTTONS),
    ],
}


@pytest.mark.parametrize("name", ORDERS)
def test_the_keyboard_goes_from_field_to_field_and_is_seen(lab: Lab, tiny_llama: Path, name: str) -> None:
    panel = open_panel(lab, "keys.ipynb", f"qt.panel({str(tiny_llama)!r})")
    panel.shown.get_by_role("tab", name="Model").focus()
    for _ in range(TABS.index(name)):
        lab.page.keyboard.press("ArrowRight")
    lab.page.keyboard.press("Enter")
    panel.shown.get_by_role("tab", name=name, selected=True).wait_for()
    if name == "Plan":
        panel.shown.get_by_text("All of the plan").wait_for()
    seen = []
    for _ in ORDERS[name]:
        lab.page.keyboard.press("Tab")
        seen.append(lab.page.evaluate(FOCUS))
    assert seen == [[label, True] for label in ORDERS[name]]
