"""JupyterLab and a browser, both started once for the files of this folder that run one after the other."""

from collections.abc import Generator, Iterator

import pytest
from playwright.sync_api import Browser, Page, ViewportSize, expect, sync_playwright

from tests.browser.lab import PICTURES, Lab, find_browser
from tests.browser.server import PATIENCE, LabServer
from tests.fake_hub.fixture import WRITE_TOKEN, environment
from tests.fake_hub.writable import WritableHub

WINDOW: ViewportSize = {"width": 1280, "height": 1400}


# Playwright runs an event loop in this thread, which other tests would stumble over: it ends with this folder.
@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """The machine's own Chromium."""
    found = find_browser()
    if found is None:
        pytest.fail("no Chromium here: run `make browser`, or `apt-get install chromium` as root", pytrace=False)
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=found)
        yield started
        started.close()


@pytest.fixture(scope="package")
def page_hub() -> Iterator[WritableHub]:
    """The Hub of the server's kernels, in which the account "me" may write."""
    with WritableHub() as hub:
        hub.tokens.add(WRITE_TOKEN)
        hub.writers[WRITE_TOKEN] = "me"
        yield hub


@pytest.fixture(scope="package")
def server(page_hub: WritableHub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabServer]:
    """JupyterLab, whose kernels take `page_hub` for the Hub."""
    home = tmp_path_factory.mktemp("lab")
    hub = {**environment(page_hub, home / "hub"), "HF_TOKEN": WRITE_TOKEN, "HF_HUB_DISABLE_XET": "1"}
    with LabServer(home, hub) as started:
        yield started


@pytest.fixture(scope="package")
def page(browser: Browser, server: LabServer) -> Iterator[Page]:
    """JupyterLab's page, which takes some seconds to come."""
    page = browser.new_page(viewport=WINDOW, reduced_motion="reduce")
    page.set_default_timeout(1000 * PATIENCE)
    expect.set_options(timeout=1000 * PATIENCE)
    page.goto(f"{server.url}lab?token={server.token}")
    Lab(page, server).wait_restored()
    yield page
    page.close()


@pytest.fixture
def lab(page: Page, server: LabServer) -> Iterator[Lab]:
    """The page, wide, light and with nothing open; what a test opens is closed, and its kernels end."""
    page.set_viewport_size(WINDOW)
    lab = Lab(page, server)
    lab.set_theme("light")
    yield lab
    lab.close_all()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Keep what the page looked like when a test failed."""
    report = yield
    if report.when == "call" and report.failed and "page" in item.funcargs:
        item.funcargs["page"].screenshot(path=PICTURES / f"failed-{item.name}.png")
    return report
