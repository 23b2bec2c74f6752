"""One person's way through notebook 12: choose, plan, quantize, change one's mind, compare, publish, come back."""

import re
import shutil
from pathlib import Path

from playwright.sync_api import expect

from tests.browser.lab import Lab, keep_picture
from tests.browser.panel import ShownPanel
from tests.browser.server import ROOT
from tests.fake_hub.writable import WritableHub

NOTEBOOK = ROOT / "notebooks" / "12_panels.ipynb"
MODEL = "output/SmolLM2-135M-Instruct"
# The cell of the notebook that opens the panel.
OPENS = 2


def open_notebook(lab: Lab, smollm2: Path) -> ShownPanel:
    """Open the notebook and run it until the panel is there, with the model where it would make it itself."""
    model = lab.server.work / MODEL
    model.parent.mkdir(exist_ok=True)
    model.symlink_to(smollm2)
    shutil.copy(NOTEBOOK, lab.server.work)
    lab.open(NOTEBOOK.name)
    return ShownPanel([lab.run(index) for index in range(OPENS + 1)][-1])


def test_from_a_name_to_the_hub_and_back(lab: Lab, smollm2: Path, page_hub: WritableHub) -> None:
    panel = open_notebook(lab, smollm2)
    choose(panel)
    plan(panel)
    quantize(panel)
    cancel_another(panel)
    compare(panel)
    publish(panel)
    repository = page_hub.repositories["me/smollm2-nf4"]
    assert repository.private and "model.safetensors" in repository.commits[repository.refs["main"]]
    stays(lab)


def choose(panel: ShownPanel) -> None:
    panel.field("Search").fill("")
    panel.field("Search").fill(MODEL)
    expect(panel.field("Found")).to_have_value(re.compile(MODEL))
    expect(panel.shown.get_by_text("134,515,008").locator("visible=true").first).to_be_visible()
    panel.keep_picture("panel-model")


def plan(panel: ShownPanel) -> None:
    panel.turn_to("Plan")
    expect(panel.shown.get_by_text("269.0 MB would become 111.7 MB")).to_be_visible()
    panel.field("Quantize the scales too").uncheck()
    panel.expect_call(f"qt.plan('{MODEL}', qt.NF4(double_quant=False))")
    expect(panel.shown.get_by_text("269.0 MB would become 116.4 MB")).to_be_visible()
    panel.field("Quantize the scales too").check()
    expect(panel.shown.get_by_text("269.0 MB would become 111.7 MB")).to_be_visible()
    panel.keep_picture("panel-plan")


def quantize(panel: ShownPanel) -> None:
    panel.turn_to("Quantize")
    panel.press("Quantize")
    seen = []
    for tens in ("[1-4]0 %", "[5-9]0 %"):
        panel.wait_for(f"quantize, {tens}")
        seen.append(panel.bar("quantize").get_attribute("aria-valuenow"))
    panel.keep_picture("panel-quantize")
    panel.wait_for("nf4 of .*: done")
    assert 0 < int(seen[0]) < int(seen[1]) < 100
    expect(panel.results).to_contain_text(re.compile("ratio\\s*2.41 times smaller"))
    panel.press("Try it")
    panel.wait_for("answers to .*: done")
    expect(panel.shown.get_by_text("after", exact=True).locator("visible=true")).to_be_visible()
    expect(panel.results).to_contain_text(re.compile("before\\s*sky"))
    panel.keep_picture("panel-try")


def cancel_another(panel: ShownPanel) -> None:
    panel.turn_to("Plan")
    panel.choose("Method", "gptq")
    panel.field("Calibration text").fill("output/topics.txt")
    panel.field("Samples").fill("16")
    panel.field("Sample length").fill("256")
    panel.turn_to("Quantize")
    panel.expect_call(f"GPTQ(calibration='output/topics.txt', num_samples=16, seq_len=256), output='{MODEL}-gptq'")
    panel.press("Quantize")
    panel.wait_for("quantize, 0 %")
    panel.press("Cancel")
    panel.wait_for("gptq of .*: cancelled")


def compare(panel: ShownPanel) -> None:
    panel.turn_to("Compare")
    panel.field("Text").fill("output/topics.txt")
    panel.field("Tokens").fill("512")
    panel.field("Prompts").fill("The capital of France is")
    panel.expect_call("num_tokens=512, prompts=['The capital of France is']")
    panel.keep_picture("panel-compare")
    panel.press("Compare")
    panel.wait_for("comparison of .*: done")
    expect(panel.results).to_contain_text("The capital of France is")


def publish(panel: ShownPanel) -> None:
    panel.turn_to("Publish")
    expect(panel.field("Folder")).to_have_value("output/SmolLM2-135M-Instruct-nf4")
    panel.field("Repository").fill("me/smollm2-nf4")
    panel.field("Licence").fill("apache-2.0")
    panel.expect_call("'me/smollm2-nf4', license='apache-2.0'")
    panel.press("Publish")
    panel.wait_for("publication of .*: done")
    expect(panel.shown.get_by_role("list", name="checks")).to_contain_text("file hashes: passed")
    panel.keep_picture("panel-publish")


def stays(lab: Lab) -> None:
    """With its kernel, the page shows panel and results again; without, the results."""
    saved = lab.save()
    assert "widgets" not in saved.metadata
    lab.reload()
    results = ShownPanel(lab.output(OPENS)).results
    for call in ("qt.compare(", "qt.publish("):
        expect(results).to_contain_text(call)
    lab.end_kernel()
    lab.reload()
    results = ShownPanel(lab.output(OPENS)).results
    expect(results).to_contain_text("qt.publish(")
    expect(results.get_by_text("The capital of France is").first).to_be_visible()
    keep_picture(results, "results-reopened")
