"""The panel on a page: fields by their label, buttons by their text, as a person finds them."""

import re

from playwright.sync_api import Locator, expect

from tests.browser.lab import Lab, keep_picture
from tests.browser.server import PATIENCE


class ShownPanel:
    """The panel in the output of a cell.

    Attributes:
        shown: all of the cell's output: the panel, and below it the results.
        panel: the panel itself.
        results: the place of the results.
    """

    def __init__(self, shown: Locator) -> None:
        self.shown = shown
        self.panel = shown.locator(".qtk").first
        self.results = shown.locator(".jp-OutputArea-child").last

    def keep_picture(self, name: str) -> None:
        """Store how the panel looks, without its results."""
        keep_picture(self.panel, name)

    def turn_to(self, name: str) -> None:
        """Open one of the five."""
        self.shown.get_by_role("tab", name=name).click()

    def field(self, label: str) -> Locator:
        """The control with this label in the panel that is open."""
        return self.shown.get_by_label(label, exact=True).locator("visible=true")

    def choose(self, label: str, beginning: str) -> None:
        """Choose the entry of a list that begins like this."""
        entry = self.field(label).locator("option", has_text=re.compile(f"^{beginning}"))
        self.field(label).select_option(entry.get_attribute("value"))

    def expect_call(self, part: str) -> None:
        """Wait until the call that is shown says this: a button's message may overtake what was just typed."""
        expect(self.shown.locator("code", has_text=part).locator("visible=true").first).to_be_visible()

    def press(self, label: str) -> None:
        """Press a button of the panel that is open."""
        self.shown.get_by_role("button", name=label, exact=True).locator("visible=true").click()

    def bar(self, phase: str) -> Locator:
        """The bar of a phase of the job, in the panel that is open."""
        return self.shown.get_by_role("progressbar", name=phase).locator("visible=true")

    @property
    def status(self) -> Locator:
        """What the panel that is open says of its jobs, each below its own button."""
        return self.shown.locator('[aria-live="polite"]').locator("visible=true")

    def wait_for(self, status: str, patience: float = PATIENCE) -> None:
        """Wait until the job says this.

        Args:
            status: a regular expression.
            patience: seconds.
        """
        expect(self.status.filter(has_text=re.compile(status)).first).to_be_visible(timeout=1000 * patience)


def open_panel(lab: Lab, name: str, call: str = "qt.panel()") -> ShownPanel:
    """Open a notebook whose only cell opens the panel."""
    lab.open(name, f"import qtoolkit as qt\n{call}")
    return ShownPanel(lab.run())
