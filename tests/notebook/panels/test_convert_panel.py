"""The panel Convert: a folder that was quantized becomes one in another format, by the call that it shows."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from IPython.core.interactiveshell import InteractiveShell

import qtoolkit as qt
from qtoolkit.notebook.panels import Panel
from qtoolkit.notebook.panels.convert_panel import ConvertPanel
from qtoolkit.records import Conversion
from qtoolkit.units import format_bytes
from tests.notebook.panels.conftest import told
from tests.sample_models import random_model

Open = Callable[..., Panel]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "tiny"
    config = qt.ZeroPoint(bits=4, granularity="group", group_size=32)
    qt.quantize(random_model("llama", num_hidden_layers=1), config, device="cpu", output=folder)
    return folder


def press(part: ConvertPanel) -> Any:
    part.runner.actions["Convert"].press()
    part.runner._worker.wait(60)
    return part.runner._results.records.get("convert")


def test_it_takes_what_was_saved_when_it_is_turned_to_and_proposes_a_folder(open_panel: Open, saved: Path) -> None:
    panel = open_panel()
    assert panel.convert is not None and "It needs a quantized model and a folder." in panel.convert.call.value
    panel.choice.folder = str(saved)
    assert panel.convert.source.value == ""
    panel.box.children[2].selected_index = 4
    assert panel.convert.source.value == str(saved)
    assert panel.convert.output.value == "output/tiny-compressed-tensors"
    panel.convert.format.value = "mlx"
    panel.convert.lossy.value = True
    shown = unescape(panel.convert.call.value)
    assert f"qt.convert({str(saved)!r}, 'mlx', 'output/tiny-mlx', lossy=True)" in shown
    panel.convert.format.value, panel.convert.lossy.value, panel.convert.wider.value = "gguf", False, True
    shown = unescape(panel.convert.call.value)
    assert f"qt.convert({str(saved)!r}, 'gguf', 'output/tiny-gguf', wider=True)" in shown
    panel.convert.output.value = "mine"
    panel.convert.format.value = "gptq_v2"
    assert panel.convert.output.value == "mine"


def test_a_refusal_and_the_way_out_of_it(
    open_panel: Open, saved: Path, tmp_path: Path, shell: InteractiveShell
) -> None:
    convert: ConvertPanel = open_panel(only="convert").convert
    convert.source.value, convert.format.value, convert.output.value = str(saved), "mlx", str(tmp_path / "out")
    assert press(convert) is None
    assert "does not hold: tick “Allow small changes: round what the format cannot hold exactly”" in told(convert)
    convert.lossy.value = True
    record = press(convert)
    assert isinstance(record, Conversion) and record.lossy and (tmp_path / "out" / "config.json").is_file()
    sizes = [sum(file.stat().st_size for file in folder.glob("*.safetensors")) for folder in (saved, tmp_path / "out")]
    larger = "larger, since mlx stores more for the same codes, such as scales or minima"
    grown = f"{' to '.join(map(format_bytes, sizes))} on disk ({larger}); saved to {tmp_path / 'out'}. Not verified yet"
    assert sizes[0] < sizes[1] and grown in told(convert)
    assert "larger" not in replace(record, disk_after=record.disk_before).headline()


def test_the_panels_go_on_with_what_was_written(open_panel: Open, saved: Path, tmp_path: Path) -> None:
    panel = open_panel()
    panel.choice.folder = str(saved)
    panel.box.children[2].selected_index = 4
    steps = panel.convert.next_steps
    assert steps.box.layout.display == "none"
    panel.convert.output.value = str(tmp_path / "out")
    assert isinstance(press(panel.convert), Conversion)
    assert steps.box.layout.display is None and list(steps.buttons) == ["compare", "publish"]
    steps.buttons["publish"].press()
    assert panel.box.children[2].selected_index == 5 and panel.publish.folder.value == str(tmp_path / "out")
    # More formats are made of what this one was made of.
    panel.box.children[2].selected_index = 4
    assert panel.convert.source.value == str(saved)


def test_workers_share_a_conversion_out(open_panel: Open, saved: Path, tmp_path: Path) -> None:
    convert: ConvertPanel = open_panel(only="convert").convert
    convert.source.value, convert.output.value = str(saved), str(tmp_path / "out")
    convert.workers.value = "some"
    assert press(convert) is None and "Workers must be a number of processes" in convert.workers.problem
    convert.workers.value = "2"
    assert "ProcessPoolExecutor(2, get_context('spawn')" in unescape(convert.call.value)
    executor = ThreadPoolExecutor(1)
    with patch("qtoolkit.notebook.panels.shared_call.processes", return_value=executor) as opened:
        record = press(convert)
    opened.assert_called_once_with("2", "Workers")
    assert isinstance(record, Conversion) and not convert.workers.problem
    # They have done it: the executor has started its thread, and was closed with the job.
    assert executor._threads and executor._shutdown


def test_an_empty_field_is_named(open_panel: Open) -> None:
    convert: ConvertPanel = open_panel(only="convert").convert
    assert press(convert) is None and "a saved folder or a Hub id" in convert.source.problem
