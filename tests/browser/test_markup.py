"""What the Hub says is text: markup in an id, a licence, a card or a file's name does not run in the page."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.browser.lab import Lab
from tests.browser.panel import ShownPanel, open_panel
from tests.fake_hub.writable import WritableHub

# Seen to run in tests/browser/test_harness.py where it is not escaped. No slash: it is a part of an id.
ATTACK = '<img src=x onerror="window.ran = 1">'


@pytest.fixture
def hostile(page_hub: WritableHub, tiny_llama: Path) -> Iterator[None]:
    """Two models on the Hub whose words are markup; files and weights of the second are sound."""
    config = {"architectures": [ATTACK], "model_type": ATTACK}
    claims = {"id": f"evil/search{ATTACK}", "cardData": {"license": ATTACK}, "config": config, "tags": [ATTACK]}
    page_hub.add("evil/search", {"config.json": json.dumps(config).encode()}).claims = claims
    metadata = f"license: other\nlicense_name: '{ATTACK}'\nlicense_link: '{ATTACK}'\ntags: ['{ATTACK}']"
    files = {file.name: file.read_bytes() for file in tiny_llama.iterdir()}
    page_hub.add(
        "evil/model", {**files, "README.md": f"---\n{metadata}\n---\n{ATTACK}\n".encode(), f"{ATTACK}.json": b"{}"}
    )
    yield
    del page_hub.repositories["evil/search"], page_hub.repositories["evil/model"]


def expect_harmless(panel: ShownPanel) -> None:
    """The markup is on the page as text, and nothing of it has run."""
    expect(panel.shown.get_by_text("onerror").locator("visible=true").first).to_be_visible()
    # An error of an image is told some time after it is on the page.
    panel.shown.page.wait_for_timeout(300)
    assert panel.shown.page.evaluate("typeof window.ran") == "undefined"
    assert panel.shown.locator("img, [onerror]").count() == 0


@pytest.mark.usefixtures("hostile")
def test_of_a_model_that_is_found(lab: Lab) -> None:
    panel = open_panel(lab, "found.ipynb")
    panel.field("Search").fill("evil/search")
    panel.choose("Found", "evil/search<img")
    expect(panel.shown.get_by_text("architecture")).to_be_visible()
    expect_harmless(panel)


@pytest.mark.usefixtures("hostile")
def test_of_a_model_that_is_quantized_and_published(lab: Lab) -> None:
    panel = open_panel(lab, "card.ipynb", "qt.panel('evil/model')")
    panel.turn_to("Quantize")
    panel.field("Save to").fill(f"output/{ATTACK}")
    panel.expect_call("onerror")
    expect_harmless(panel)
    panel.press("Quantize")
    panel.wait_for("nf4 of evil/model: done")
    expect_harmless(panel)
    panel.turn_to("Publish")
    panel.field("Repository").fill("me/evil")
    panel.expect_call("'me/evil'")
    panel.press("Dry run")
    panel.wait_for("dry run of .*: done")
    panel.shown.get_by_text("Its card").click()
    expect_harmless(panel)


def test_of_what_is_typed(lab: Lab, tiny_llama: Path) -> None:
    panel = open_panel(lab, "typed.ipynb", f"qt.panel({str(tiny_llama)!r})")
    # The model last: what is typed there is in the calls of the other panels too.
    for name, field in (("Compare", "Text"), ("Publish", "Repository"), ("Plan", "Model")):
        panel.turn_to(name)
        if name == "Publish":
            panel.field("Folder").fill("somewhere")
        panel.field(field).fill(ATTACK)
        expect_harmless(panel)
