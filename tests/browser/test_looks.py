"""Each panel in light and dark, in a narrow cell, and when its kernel has ended."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browser.axe import serious_faults
from tests.browser.conftest import WINDOW
from tests.browser.lab import Lab
from tests.browser.panel import ShownPanel, open_panel
from tests.browser.server import LabServer

NAMES = ("Model", "Plan", "Quantize", "Compare", "Convert", "Publish")
# What reaches beyond the panel, or is wider inside than it shows. Fields scroll, and their values are in the call too.
CUT = """panel => [...panel.querySelectorAll("*:not(input, select, option, textarea)")].filter(part => {
    const edge = panel.getBoundingClientRect().right, shown = part.checkVisibility() && getComputedStyle(part);
    const beyond = part.getBoundingClientRect().right > edge + 1;
    return shown && (beyond || (shown.overflowX !== "visible" && part.scrollWidth > part.clientWidth + 1));
}).map(part => part.outerHTML)"""

RESTART = "() => window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.restart()"
# What ipywidgets draws before each part that has lost its kernel.
BROKEN = """panel => [panel, ...panel.querySelectorAll(".jupyter-widgets-disconnected")]
    .map(part => getComputedStyle(part, "::before").content).filter(content => !["none", "normal"].includes(content))"""


@pytest.fixture(scope="module")
def used(page: Page, server: LabServer, tiny_llama: Path) -> Iterator[ShownPanel]:
    """A panel in which a job was done, another one was refused, and some fields are wrong."""
    lab = Lab(page, server)
    folder = server.work / "a_folder_with_a_rather_long_name_as_models_tend_to_have_them_Instruct-v0.3"
    folder.symlink_to(tiny_llama)
    panel = open_panel(lab, "looks.ipynb", f"qt.panel({folder.name!r})")
    panel.turn_to("Quantize")
    panel.press("Quantize")
    panel.wait_for("nf4 of .*: done")
    panel.turn_to("Compare")
    panel.field("Tokens").fill("many")
    panel.turn_to("Publish")
    panel.field("Repository").fill("me/tiny")
    panel.expect_call("'me/tiny'")
    panel.press("Dry run")
    panel.wait_for("dry run of .*: not started")
    panel.turn_to("Quantize")
    # Its folder is there: a problem with a long path stands beside the field.
    panel.press("Quantize")
    panel.wait_for("not started")
    panel.turn_to("Publish")
    panel.field("Repository").fill("")
    panel.shown.get_by_text("It needs a folder and a repository.").wait_for()
    panel.press("Publish")
    yield panel
    lab.close_all()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_no_serious_fault(page: Page, server: LabServer, used: ShownPanel, theme: str) -> None:
    Lab(page, server).set_theme(theme)
    faults = {}
    for name in NAMES:
        used.turn_to(name)
        faults[name] = serious_faults(used.shown)
        used.keep_picture(f"{theme}-{name.lower()}")
    assert not any(faults.values()), faults


def test_a_narrow_cell_cuts_nothing_off(page: Page, used: ShownPanel) -> None:
    page.set_viewport_size({"width": 660, "height": 1400})
    page.wait_for_function("panel => panel.offsetWidth <= 300", arg=used.panel.element_handle())
    cut = {}
    for name in NAMES:
        used.turn_to(name)
        used.keep_picture(f"narrow-{name.lower()}")
        cut[name] = used.panel.evaluate(CUT)
    used.turn_to("Quantize")
    path = used.field("Save to").bounding_box()
    method = used.field("Method").bounding_box()
    page.set_viewport_size(WINDOW)
    assert not any(cut.values()), cut
    # A path has the whole width, below its label; a menu is one line high.
    assert path is not None and path["width"] > 220
    assert method is not None and method["height"] < 40


# The last one: the kernel is gone.
def test_without_its_kernel_the_last_state_stays_with_one_sentence_and_no_broken_link(
    page: Page, used: ShownPanel
) -> None:
    used.turn_to("Publish")
    sentence = used.shown.get_by_text("The kernel of this panel has ended")
    expect(sentence).to_be_hidden()
    page.evaluate(RESTART)
    expect(sentence).to_be_visible()
    expect(used.field("Branch")).to_have_value("main")
    assert used.panel.locator(".jupyter-widgets-disconnected").count() > 100
    assert used.panel.evaluate(BROKEN) == []
    used.keep_picture("restart-publish")
