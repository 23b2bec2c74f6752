"""JupyterLab's stop button stops a panel's job, although no cell runs."""

from pathlib import Path

from playwright.sync_api import expect

from tests.browser.lab import Lab
from tests.browser.panel import open_panel


def test_it_stops_the_job_and_the_next_one_runs(lab: Lab, smollm2: Path, tiny_llama: Path) -> None:
    text = lab.server.work / "river.txt"
    text.write_text("The river rises in the hills and runs down to the sea. " * 2000, encoding="utf-8")
    panel = open_panel(lab, "stop.ipynb", f"qt.panel({str(smollm2)!r})")
    panel.turn_to("Plan")
    panel.choose("Method", "gptq")
    for name, value in {"Calibration text": text.name, "Samples": "16", "Sample length": "256"}.items():
        panel.field(name).fill(value)
    panel.turn_to("Quantize")
    panel.field("Save to").fill("output/stopped")
    panel.expect_call("num_samples=16, seq_len=256), output='output/stopped'")
    panel.press("Quantize")
    panel.wait_for("quantize, 0 %")
    lab.press_stop()
    panel.wait_for("gptq of .*: cancelled")
    assert not (lab.server.work / "output" / "stopped").exists()
    panel.turn_to("Plan")
    panel.field("Model").fill(str(tiny_llama))
    panel.choose("Method", "nf4")
    panel.turn_to("Quantize")
    panel.field("Save to").fill("output/after-stop")
    panel.expect_call("qt.NF4(), output='output/after-stop'")
    panel.press("Quantize")
    panel.wait_for("nf4 of .*: done")
    expect(panel.results).to_contain_text("after-stop")
