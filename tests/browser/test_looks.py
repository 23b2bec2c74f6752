"""Each panel in light and dark, in a narrow cell, and by keyboard alone."""

from pathlib import Path

import pytest

from tests.browser.axe import serious_faults
from tests.browser.lab import Lab
from tests.browser.panel import ShownPanel, open_panel

NAMES = ("Model", "Plan", "Quantize", "Compare", "Publish")
# What is where the keyboard is: its label or text, and whether its edge shows that it is there.
FOCUS = """() => {
    const here = document.activeElement, edge = getComputedStyle(here);
    const label = here.labels?.[0] ?? here;
    return [label.innerText.trim(), edge.outlineStyle === "solid" && parseFloat(edge.outlineWidth) >= 2];
}"""

# What reaches beyond the panel, or is wider inside than it shows. Fields scroll, and their values are in the call too.
CUT = """panel => [...panel.querySelectorAll("*:not(input, select, option, textarea)")].filter(part => {
    const edge = panel.getBoundingClientRect().right, shown = part.checkVisibility() && getComputedStyle(part);
    const beyond = part.getBoundingClientRect().right > edge + 1;
    return shown && (beyond || (shown.overflowX !== "visible" && part.scrollWidth > part.clientWidth + 1));
}).map(part => part.outerHTML)"""


@pytest.fixture
def used(lab: Lab, tiny_llama: Path) -> ShownPanel:
    """A panel in which a job was done, another one failed, and some fields are wrong."""
    folder = lab.server.work / "a-folder-with-a-rather-long-name-as-models-tend-to-have-them-Instruct-v0.3"
    if not folder.exists():
        folder.symlink_to(tiny_llama)
    panel = open_panel(lab, "looks.ipynb", f"qt.panel({folder.name!r})")
    panel.turn_to("Quantize")
    panel.field("Replace the folder when it exists").check()
    panel.press("Quantize")
    panel.wait_for("nf4 of .*: done")
    panel.turn_to("Compare")
    panel.field("Tokens").fill("many")
    panel.turn_to("Publish")
    panel.field("Repository").fill("me/tiny")
    panel.press("Dry run")
    panel.wait_for("dry run of .*: the licence of .* is not known")
    panel.field("Repository").fill("")
    panel.press("Publish")
    return panel


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_no_serious_fault(lab: Lab, used: ShownPanel, theme: str) -> None:
    lab.set_theme(theme)
    faults = {}
    for name in NAMES:
        used.turn_to(name)
        faults[name] = serious_faults(used.shown)
        used.keep_picture(f"{theme}-{name.lower()}")
    assert not any(faults.values()), faults


def test_a_narrow_cell_cuts_nothing_off(lab: Lab, used: ShownPanel) -> None:
    wide = lab.page.viewport_size
    lab.page.set_viewport_size({"width": 800, "height": 1400})
    assert used.panel.bounding_box()["width"] < 400
    cut = {}
    for name in NAMES:
        used.turn_to(name)
        used.keep_picture(f"narrow-{name.lower()}")
        cut[name] = used.panel.evaluate(CUT)
    lab.page.set_viewport_size(wide)
    assert not any(cut.values()), cut


SWITCHES, BUTTONS = ("Everybody may see it", "Open a pull request instead"), ("Verify", "Dry run", "Publish", "Cancel")
ORDERS = {
    "Plan": ["Model", "Method", "exclude", "double_quant", "compute_dtype", "Device", "Machine", "All of the plan"],
    "Publish": ["Folder", "Repository", "Licence", "Branch", *SWITCHES, *BUTTONS],
}


@pytest.mark.parametrize("name", ORDERS)
def test_the_keyboard_goes_from_field_to_field_and_is_seen(lab: Lab, tiny_llama: Path, name: str) -> None:
    panel = open_panel(lab, "keys.ipynb", f"qt.panel({str(tiny_llama)!r})")
    panel.shown.get_by_role("tab", name="Model").focus()
    for _ in range(NAMES.index(name)):
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
