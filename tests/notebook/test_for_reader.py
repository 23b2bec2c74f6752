"""The program that shall load a result: `--for` on a line, a menu in the panels, which share it."""

from typing import Any

import pytest
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output

import qtoolkit as qt
from qtoolkit.notebook.lines import read_line
from tests.notebook.conftest import shell
from tests.notebook.panels.conftest import open_panel
from tests.sample_models import random_model

__all__ = ["open_panel", "shell"]


@pytest.mark.parametrize("magic", ["quantize", "qplan"])
def test_a_line_names_the_program(magic: str) -> None:
    assert read_line(magic, "m --for vllm").options["for_"] == "vllm"


def test_a_line_is_refused_with_a_config_that_is_loaded(shell: InteractiveShell) -> None:
    shell.push({"m": random_model("llama")})
    with capture_output() as captured:
        shell.run_cell("%quantize m --method gptq --bits 3 --device cpu --for vllm --output out")
    shown = captured.stdout + captured.stderr
    assert "vLLM 0.33.0 would not load the result (GPTQ of 3 bits" in shown
    assert "format='compressed-tensors'" in shown


def test_the_panels_share_it_and_tell_before_the_job(open_panel: Any, tmp_path: Any) -> None:
    model = tmp_path / "llama"
    random_model("llama").save_pretrained(model)
    panel = open_panel(str(model), only=None)
    panel.choice.config = qt.GPTQ(bits=3)
    panel.plan.for_.value = "vllm"
    panel.plan.lookup.wait()
    assert "✖ vLLM 0.33.0 does not load the result" in panel.plan.verdict.value
    assert "compressed-tensors" in panel.plan.verdict.value
    assert panel.quantize.for_.value == "vllm"
    assert "for_=&#x27;vllm&#x27;" in panel.quantize.call.value or "for_='vllm'" in panel.quantize.call.value
    panel.quantize.for_.value = ""
    panel.plan.lookup.wait()
    assert "does not load the result" not in panel.plan.verdict.value
