"""A notebook of somebody else, as every fresh clone is: JupyterLab takes scripts, SVG and most of CSS out of it."""

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output
from playwright.sync_api import expect

from qtoolkit.records import MemoryReport
from tests.browser.lab import Lab

REPORT = MemoryReport(num_parameters=100, footprint_before=2_000_000, footprint_after=500_000)
_TRUSTED = "() => window.jupyterapp.shell.currentWidget.content.widgets[0].model.trusted"
# The luminance of WCAG, of a bar and of the page behind it.
_CONTRAST = """bar => {
    const light = colour => colour.match(/[\\d.]+/g).slice(0, 3).map(Number).map(part => part / 255)
        .map(part => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4)
        .reduce((sum, part, index) => sum + part * [0.2126, 0.7152, 0.0722][index], 0.05);
    const page = getComputedStyle(bar.closest(".jp-Notebook")).backgroundColor;
    const [low, high] = [light(getComputedStyle(bar).backgroundColor), light(page)].sort((a, b) => a - b);
    return high / low;
}"""


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_bars_of_a_report_are_there(lab: Lab, theme: str) -> None:
    shown = new_output("display_data", {"text/html": REPORT._repr_html_(), "text/plain": str(REPORT)})
    notebook = new_notebook(cells=[new_code_cell("report", execution_count=1, outputs=[shown])])
    notebook.metadata["kernelspec"] = {"display_name": "Python 3", "language": "python", "name": "python3"}
    nbformat.write(notebook, lab.server.work / f"untrusted-{theme}.ipynb")
    lab.set_theme(theme)
    lab.open(f"untrusted-{theme}.ipynb")
    assert lab.page.evaluate(_TRUSTED) is False
    expect(lab.output().get_by_text("Memory footprint: all weights")).to_be_visible()
    bars = lab.output().locator("td div div")
    expect(bars).to_have_count(2)
    before, after = (bar.bounding_box() for bar in bars.all())
    assert before is not None and after is not None
    assert before["width"] > 100 and before["height"] > 8
    assert after["width"] == pytest.approx(before["width"] / 4, abs=2)
    assert bars.first.evaluate(_CONTRAST) >= 3
    expect(lab.output().get_by_text(REPORT.headline())).to_be_visible()
    figures = lab.output().get_by_role("cell", name="4.00 times smaller")
    expect(figures).to_be_hidden()
    lab.output().get_by_text("All figures").click()
    expect(figures).to_be_visible()
