"""When its kernel has ended, a panel is a picture of its last state, and one sentence says so."""

from playwright.sync_api import expect

from tests.browser.lab import Lab
from tests.browser.panel import open_panel

_RESTART = "() => window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.restart()"
# What ipywidgets draws before each part that has lost its kernel.
_BROKEN = """panel => [panel, ...panel.querySelectorAll(".jupyter-widgets-disconnected")]
    .map(part => getComputedStyle(part, "::before").content).filter(content => !["none", "normal"].includes(content))"""


def test_the_last_state_stays_with_one_sentence_and_no_broken_link(lab: Lab) -> None:
    panel = open_panel(lab, "restart.ipynb", "qt.panel(only='publish')")
    sentence = panel.shown.get_by_text("The kernel of this panel has ended")
    expect(sentence).to_be_hidden()
    panel.field("Repository").fill("me/tiny")
    lab.page.evaluate(_RESTART)
    expect(sentence).to_be_visible()
    expect(panel.field("Repository")).to_have_value("me/tiny")
    assert panel.panel.locator(".jupyter-widgets-disconnected").count() > 20
    assert panel.panel.evaluate(_BROKEN) == []
