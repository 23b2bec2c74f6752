"""The panel as an app: Voila shows a notebook without its code."""

from pathlib import Path

from playwright.sync_api import Browser, expect

from tests.browser.axe import serious_faults
from tests.browser.panel import ShownPanel
from tests.browser.server import PATIENCE, LabServer


def test_a_job_runs_in_the_app(browser: Browser, server: LabServer, tiny_llama: Path) -> None:
    server.write("app.ipynb", f"import qtoolkit as qt\nqt.panel({str(tiny_llama)!r})")
    app = browser.new_page()
    app.set_default_timeout(1000 * PATIENCE)
    app.goto(f"{server.url}voila/render/app.ipynb?token={server.token}")
    panel = ShownPanel(app.locator("#main"))
    panel.shown.get_by_role("tab", name="Quantize").wait_for()
    expect(app.get_by_text("import qtoolkit")).to_have_count(0)
    panel.turn_to("Quantize")
    panel.field("Save to").fill("output/app")
    panel.expect_call("output='output/app'")
    panel.press("Quantize")
    panel.wait_for("nf4 of .*: done")
    expect(panel.results).to_contain_text("qt.quantize(")
    panel.keep_picture("voila-quantize")
    assert (server.work / "output" / "app" / "model.safetensors").exists()
    assert serious_faults(panel.panel) == []
    app.close()
