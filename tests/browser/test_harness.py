"""What the other files stand on: cells run, outputs stay, faults are found, and markup that runs is seen to run."""

from pathlib import Path

import pytest

from tests.browser.axe import serious_faults
from tests.browser.lab import Lab, keep_picture

BUTTON = """
import ipywidgets as widgets
button, said = widgets.Button(description="Go"), widgets.HTML()
button.on_click(lambda _: setattr(said, "value", "gone"))
widgets.VBox([button, said])
"""


def test_a_button_in_a_cell_does_what_the_kernel_says(lab: Lab) -> None:
    lab.open("button.ipynb", BUTTON, "1 / 0")
    shown = lab.run(0)
    shown.get_by_role("button", name="Go").click()
    shown.get_by_text("gone").wait_for()
    with pytest.raises(AssertionError, match="division by zero"):
        lab.run(1)


def test_what_a_cell_shows_is_saved_and_there_again(lab: Lab) -> None:
    lab.open("stays.ipynb", "'it ' + 'stays'")
    lab.run()
    (cell,) = lab.save().cells
    assert cell.outputs[0].data["text/plain"] == "'it stays'"
    lab.end_kernel()
    lab.reload()
    lab.output().get_by_text("it stays").wait_for()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_what_is_wrong_and_nothing_else(lab: Lab, theme: str) -> None:
    wrong = '<p style="color:#777;background:#888">faint</p><img src="data:,"><button></button>'
    lab.open("axe.ipynb", f"import ipywidgets as w\nw.HTML({wrong!r})", "w.Text(description='Name')")
    lab.set_theme(theme)
    found = serious_faults(lab.run(0))
    assert [fault.partition(":")[0] for fault in found] == ["button-name", "color-contrast", "image-alt"]
    assert serious_faults(lab.run(1)) == []


def test_markup_in_a_widget_can_run_and_a_picture_is_kept(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab.open("markup.ipynb", "import ipywidgets as w\nw.HTML('<img src=x onerror=\"window.seenToRun = 1\">')")
    shown = lab.run()
    lab.page.wait_for_function("window.seenToRun === 1")
    monkeypatch.setattr("tests.browser.lab.PICTURES", tmp_path)
    assert keep_picture(shown, "harness").read_bytes().startswith(b"\x89PNG")
