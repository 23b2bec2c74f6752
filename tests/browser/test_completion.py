"""Tab in a cell: what JupyterLab's popup shows, in which order, and that nothing else is in it."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect

from tests.browser.lab import Lab
from tests.browser.server import LabServer


@pytest.fixture(scope="module")
def completing(page: Page, server: LabServer) -> Iterator[Lab]:
    """A notebook whose first cell has loaded qtoolkit, and whose second one is empty."""
    lab = Lab(page, server)
    lab.open("completion.ipynb", "%load_ext qtoolkit", "")
    lab.run(0)
    yield lab
    lab.close_all()


@pytest.mark.parametrize(
    ("typed", "shown"),
    [
        pytest.param("%qpanel --only ", ["model", "plan", "quantize", "compare", "convert", "publish"], id="first Tab"),
        pytest.param("%quantize m --de", ["--debug", "--device"], id="options"),
        pytest.param('%%quantize m\nmethod = "gptq"\ntarget', ["target_bits =", "target_size ="], id="body"),
    ],
)
def test_the_popup_begins_with_what_fits_and_has_no_python_names(completing: Lab, typed: str, shown: list[str]) -> None:
    page = completing.page
    completing.cell(1).click()
    page.keyboard.press("ControlOrMeta+a")
    page.keyboard.press("Delete")
    page.keyboard.type(typed)
    page.keyboard.press("Tab")
    entries = page.locator(".jp-Completer:visible .jp-Completer-match")
    expect(entries.first).to_have_text(shown[0])
    found = [text.strip() for text in entries.all_inner_texts()]
    assert found[: len(shown)] == shown
    # JupyterLab itself adds the words that are typed already.
    assert all(other in typed for other in found[len(shown) :])
    page.keyboard.press("Escape")
