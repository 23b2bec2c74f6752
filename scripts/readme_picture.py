"""Take the picture at the head of README.md, of a real cell in JupyterLab: part of `make pictures`."""

import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

from tests.browser.lab import Lab, find_browser
from tests.browser.server import ROOT, LabServer

# Seconds for a cell: nobody waits for this, and it may share its cores with tests.
PATIENCE = 900
PICTURE = ROOT / "docs/pictures/before-after.png"
MODEL = "SmolLM2-135M-Instruct"
CELLS = (
    f"%quantize {MODEL} --method nf4 --output smollm2-nf4 --into q",
    'print(q.generate("The capital of France is", max_new_tokens=12))',
)


def main() -> None:
    """Run two cells, and store what the page shows of them."""
    with tempfile.TemporaryDirectory() as home, LabServer(Path(home), {}) as server, sync_playwright() as playwright:
        (server.work / MODEL).symlink_to(ROOT / "build/models" / MODEL)
        browser = playwright.chromium.launch(executable_path=find_browser())
        page = browser.new_page(viewport={"width": 1150, "height": 760}, device_scale_factor=1.5)
        page.set_default_timeout(1000 * PATIENCE)
        page.goto(f"{server.url}lab?token={server.token}")
        lab = Lab(page, server)
        lab.wait_restored()
        lab.open("readme.ipynb", "%load_ext qtoolkit", *CELLS)
        for index in range(3):
            lab.run(index)
        # Its first line is not what the picture is of.
        cells = page.locator(".jp-Notebook .jp-CodeCell")
        first, last = cells.nth(1).bounding_box(), cells.nth(2).bounding_box()
        assert first is not None
        assert last is not None
        PICTURE.parent.mkdir(exist_ok=True)
        height = last["y"] + last["height"] - first["y"]
        page.screenshot(
            path=PICTURE, clip={"x": first["x"], "y": first["y"], "width": first["width"], "height": height}
        )
        browser.close()


if __name__ == "__main__":
    main()
