"""The panel Model opens on what is at hand, says what fits, and asks no network before somebody types or chooses."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from qtoolkit.hub.at_hand import SUGGESTED
from qtoolkit.notebook.panels import Panel, model_panel
from qtoolkit.units import format_bytes
from tests.fake_hub.fixture import hub
from tests.fake_hub.server import Hub

__all__ = ["hub"]
Open = Callable[..., Panel]


def entries(panel: Panel) -> dict[str, str]:
    panel.model.lookup.wait()
    return {value: label for label, value in panel.model.found.control.options}


def test_it_opens_on_what_is_at_hand_and_the_hub_is_not_asked(open_panel: Open, hub: Hub, tiny_llama: Path) -> None:
    Path("mine").symlink_to(tiny_llama)
    panel = open_panel(only="model")
    lines = entries(panel)
    assert list(lines) == ["", "mine", *(one.name for one in SUGGESTED)]
    assert lines[""] == "1 on this machine, 3 to download: choose one"
    size = sum(file.stat().st_size for file in tiny_llama.glob("*.safetensors"))
    assert lines["mine"].startswith(f"✔ mine, working folder, {format_bytes(size)}, 20")
    assert lines[SUGGESTED[1].name] == "✔ Qwen/Qwen2.5-0.5B-Instruct, to download, 988.1 MB"
    panel.model.found.value = "mine"
    assert panel.choice.model == "mine" and "mine, working folder" in panel.model.details.value
    assert hub.requests == []


def test_what_does_not_fit_is_marked(open_panel: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_panel, "available_memory", lambda: 1_200_000_000)
    lines = entries(open_panel(only="model"))
    assert [lines[one.name][0] for one in SUGGESTED] == ["✔", "✔", "✖"]


def test_turned_to_again_it_lists_what_was_made_meanwhile(open_panel: Open, hub: Hub, tiny_llama: Path) -> None:
    panel = open_panel()
    assert "output/new" not in entries(panel)
    Path("output").mkdir()
    Path("output/new").symlink_to(tiny_llama)
    tabs = panel.box.children[2]
    tabs.selected_index = 1
    tabs.selected_index = 0
    assert "output/new" in entries(panel)


@pytest.mark.once
def test_as_all_panels_open_torch_is_not_imported() -> None:
    code = (
        "import sys\nfrom qtoolkit.notebook.panels import Panel\npanel = Panel()\npanel.model.lookup.wait()\n"
        "print({'torch', 'transformers'} & set(sys.modules), len(panel.model.found.control.options) > 3)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "set() True\n"
