"""A panel in a real kernel: what a page gets of it, results from another thread, and the stop button between cells."""

import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from queue import Empty
from typing import Any, NamedTuple

import pytest
from jupyter_client.blocking import BlockingKernelClient
from jupyter_client.manager import KernelManager, start_new_kernel

from tests.notebook.test_kernel import WIDGET_VIEW, run


class Kernel(NamedTuple):
    manager: KernelManager
    client: BlockingKernelClient


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    """A kernel that works in an empty folder, with `qt`."""
    root = Path(__file__).parents[3]
    manager, client = start_new_kernel(kernel_name="python3", cwd=str(tmp_path_factory.mktemp("kernel")))
    run(client, f"import sys\nsys.path.insert(0, {str(root)!r})\nimport qtoolkit as qt, qtoolkit.api")
    yield Kernel(manager, client)
    client.stop_channels()
    manager.shutdown_kernel(now=True)


@pytest.fixture
def kernel(started: Kernel) -> Iterator[Kernel]:
    """The kernel without a panel, a job or a message of the test before."""
    run(started.client, "real = qtoolkit.api.quantize")
    yield started
    run(started.client, "panel.worker.cancelled.set()\npanel.worker.wait(30)\npanel.close()")
    run(started.client, "qtoolkit.api.quantize = real\ndel panel")
    with suppress(Empty):
        while True:
            started.client.get_iopub_msg(timeout=0.5)


def messages(client: BlockingKernelClient, kind: str, seconds: float = 60) -> Iterator[dict[str, Any]]:
    """What is published from now on, of one kind."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            message = client.get_iopub_msg(timeout=1)
        except Empty:
            continue
        if message["msg_type"] == kind:
            yield message["content"]


def test_a_page_gets_a_widget_with_text_in_its_place_and_an_output_without(kernel: Kernel) -> None:
    reply, published = run(kernel.client, "panel = qt.panel()\npanel")
    assert reply["status"] == "ok"
    shown = [message["data"] for message in published if message["type"] == "display_data"]
    assert [set(data) for data in shown] == [{WIDGET_VIEW, "text/plain", "text/html"}, {"text/plain", "text/html"}]
    assert shown[0]["text/plain"] == "The panel of qtoolkit is there while its kernel runs: run this cell to open it."
    assert not [message for message in published if message["type"] in ("stream", "error", "execute_result")]


def test_a_result_replaces_the_output_although_no_cell_runs(kernel: Kernel, tiny_llama: Path) -> None:
    _, published = run(kernel.client, f"panel = qt.panel({str(tiny_llama)!r})\npanel")
    place = published[-2]["transient"]["display_id"]
    run(
        kernel.client,
        "panel.plan.methods.form.method.value = 'absmax'\npanel.quantize.runner.actions['Quantize'].press()",
    )
    update = next(messages(kernel.client, "update_display_data"))
    assert update["transient"]["display_id"] == place
    assert "QuantizationReport" in update["data"]["text/plain"]
    assert WIDGET_VIEW not in update["data"] and "<script" not in update["data"]["text/html"]


WAITING = """
import time
from qtoolkit.records import ProgressEvent
def waits(model, config, on_progress, **options):
    for done in range(10_000):
        on_progress(ProgressEvent("quantize", done, 10_000, "layers"))
        time.sleep(0.01)
qtoolkit.api.quantize = waits
panel = qt.panel("org/model", only="quantize")
panel.quantize.runner.actions["Quantize"].press()
"""


def test_the_stop_button_between_cells_stops_the_job(kernel: Kernel) -> None:
    run(kernel.client, "before = __import__('signal').getsignal(2)")
    run(kernel.client, f"{WAITING}\npanel")
    # A cell that runs meanwhile leaves the handler as it was.
    run(kernel.client, "time.sleep(0.5)")
    assert "True" in str(run(kernel.client, "panel.worker.running")[1])
    kernel.manager.interrupt_kernel()
    assert any("cancelled after" in str(update) for update in messages(kernel.client, "comm_msg"))
    _, published = run(kernel.client, "panel.worker.wait(5), panel.worker.running")
    assert "(None, False)" in str(published)


def test_begun_in_a_cell_that_awaits_the_stop_button_is_the_cells_and_then_the_jobs(kernel: Kernel) -> None:
    cell = f"import asyncio, signal\nfirst = signal.getsignal(2)\n{WAITING}\nawait asyncio.sleep(1)"
    run(kernel.client, f"{cell}\nassert signal.getsignal(2) is first\npanel")
    time.sleep(1)
    kernel.manager.interrupt_kernel()
    assert any("cancelled after" in str(update) for update in messages(kernel.client, "comm_msg"))


def test_the_stop_button_in_a_cell_stops_the_cell_and_not_the_job(kernel: Kernel) -> None:
    run(kernel.client, WAITING)
    kernel.client.execute("time.sleep(60)", stop_on_error=False)
    next(messages(kernel.client, "execute_input"))
    time.sleep(0.5)
    kernel.manager.interrupt_kernel()
    assert next(messages(kernel.client, "error"))["ename"] == "KeyboardInterrupt"
    assert "True" in str(run(kernel.client, "panel.worker.running")[1])


def test_the_panel_answers_while_a_cell_runs(kernel: Kernel) -> None:
    # A job in the worker's thread goes on, and says so, whatever the main thread does.
    run(kernel.client, WAITING)
    _, published = run(kernel.client, "time.sleep(2.5)")
    updates = [message for message in published if message["type"] == "comm_msg"]
    assert len(updates) >= 3
