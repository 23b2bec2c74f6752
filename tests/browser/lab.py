"""One page of JupyterLab, used as a person would; only cells are run by command, since they are not what is tested."""

import re
import shutil
from pathlib import Path
from typing import Any

import nbformat
from playwright.sync_api import Locator, Page

from tests.browser.server import ROOT, LabServer

PICTURES = ROOT / "build" / "screenshots"
THEMES = {"light": "JupyterLab Light", "dark": "JupyterLab Dark"}

_IDLE = """name => {
    const panel = window.jupyterapp?.shell.currentWidget, kernel = panel?.sessionContext?.session?.kernel;
    return panel?.context.path === name && panel.context.isReady && panel.sessionContext.isReady
        && kernel?.connectionStatus === "connected" && kernel.status === "idle";
}"""
_START_CELL = """index => {
    const app = window.jupyterapp, notebook = app.shell.currentWidget.content;
    const cell = notebook.widgets.filter(cell => cell.model.type === "code")[index];
    notebook.activeCellIndex = notebook.widgets.indexOf(cell);
    window.cellHasRun = false;
    app.commands.execute("notebook:run-cell").then(() => { window.cellHasRun = true; });
}"""
_OUTPUTS = """index => window.jupyterapp.shell.currentWidget.content.widgets
    .filter(cell => cell.model.type === "code")[index].model.outputs.toJSON()"""
_CLOSE = """async () => {
    const app = window.jupyterapp;
    await app.serviceManager.sessions.shutdownAll();
    for (const shown of [...app.shell.widgets("main")]) {
        await shown.context?.save();
        shown.close();
    }
}"""
_COMMAND = "([name, options]) => window.jupyterapp.commands.execute(name, options).then(() => null)"
_THEME = "name => document.body.dataset.jpThemeName === name && !document.querySelector('.jp-theme-splash')"


def find_browser() -> str | None:
    """The machine's own Chromium; None where it has none."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Lab:
    """A page of a server.

    Attributes:
        page: Playwright's page, for what is not here.
        server: where it comes from.
    """

    def __init__(self, page: Page, server: LabServer) -> None:
        self.page, self.server = page, server
        self._name = ""

    def open(self, name: str, *cells: str) -> None:
        """Open a notebook, with these code cells if there are any, and wait until its kernel can be used."""
        if cells:
            self.server.write(name, *cells)
        self._name = name
        self.command("docmanager:open", path=name)
        self.wait_idle()

    def wait_restored(self) -> None:
        """Wait until the page has opened all that was open before."""
        self.page.wait_for_function("window.jupyterapp?.restored.then(() => true)")

    def wait_idle(self) -> None:
        """Wait until the notebook's kernel has nothing to do."""
        self.page.wait_for_function(_IDLE, arg=self._name)

    def start(self, index: int = 0) -> None:
        """Run a code cell, and do not wait."""
        self.page.evaluate(_START_CELL, index)

    def run(self, index: int = 0) -> Locator:
        """Run a code cell to its end, and give its output.

        Raises:
            AssertionError: the cell raised.
        """
        self.start(index)
        self.page.wait_for_function("window.cellHasRun")
        errors = [output for output in self.page.evaluate(_OUTPUTS, index) if output["output_type"] == "error"]
        assert not errors, errors[0]["evalue"]
        return self.output(index)

    def output(self, index: int = 0) -> Locator:
        """The output of a code cell."""
        return self._code_cell(index).locator(".jp-Cell-outputArea")

    def cell(self, index: int = 0) -> Locator:
        """What one types of a code cell."""
        return self._code_cell(index).locator(".cm-content")

    def _code_cell(self, index: int) -> Locator:
        notebook = self.page.locator(".jp-NotebookPanel:not(.lm-mod-hidden) .jp-Notebook")
        return notebook.locator(".jp-CodeCell").nth(index)

    def save(self) -> nbformat.NotebookNode:
        """Save, and give the notebook as it then lies in the folder."""
        self.command("docmanager:save")
        return self.server.read(self._name)

    def reload(self) -> None:
        """Load the page again with the notebook; where its kernel is gone, it gets another one."""
        # What else was open may or may not be stored yet.
        self.page.goto(f"{self.server.url}lab/tree/{self._name}?reset")
        self.wait_restored()
        self.wait_idle()

    def press_stop(self) -> None:
        """Press the button with which a person interrupts the kernel."""
        self.page.get_by_role("button", name=re.compile("^Interrupt the kernel")).click()

    def end_kernel(self) -> None:
        """Shut the kernel down."""
        self.page.evaluate("() => window.jupyterapp.shell.currentWidget.sessionContext.shutdown()")

    def close_all(self) -> None:
        """Close what is open, and end all kernels."""
        self.page.evaluate(_CLOSE)

    def set_theme(self, theme: str) -> None:
        """Show the page "light" or "dark"."""
        self.command("apputils:change-theme", theme=THEMES[theme])
        self.page.wait_for_function(_THEME, arg=THEMES[theme])

    def command(self, name: str, **options: Any) -> None:
        """Have one of JupyterLab's commands done."""
        self.page.evaluate(_COMMAND, [name, options])


def keep_picture(shown: Locator, name: str) -> Path:
    """Store how a part of a page looks, for people who change it: `build/screenshots/NAME.png`."""
    path, size = PICTURES / f"{name}.png", shown.page.viewport_size
    assert size is not None
    # The notebook scrolls inside of the page: what is higher than the window would be cut.
    shown.page.set_viewport_size(size | {"height": 300 + shown.evaluate("part => part.offsetHeight")})
    shown.screenshot(path=path, animations="disabled")
    shown.page.set_viewport_size(size)
    return path
