"""The magics in a real kernel: what a front-end, nbval and nbclient get to see."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.blocking import BlockingKernelClient
from jupyter_client.manager import start_new_kernel

WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BlockingKernelClient]:
    """A kernel with the extension loaded, working in an empty folder."""
    root = Path(__file__).parents[2]
    manager, client = start_new_kernel(kernel_name="python3", cwd=str(tmp_path_factory.mktemp("kernel")))
    run(client, f"import sys\nsys.path.insert(0, {str(root)!r})\n%load_ext qtoolkit")
    yield client
    client.stop_channels()
    manager.shutdown_kernel(now=True)


def run(client: BlockingKernelClient, code: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Run a cell: the reply's content, and all that the kernel published, each with its type."""
    published: list[dict[str, Any]] = []
    # A kernel aborts what comes soon after a cell that failed, in case a front-end had sent it before; here each cell
    # is sent when the one before it has ended.
    reply = client.execute_interactive(
        code,
        stop_on_error=False,
        timeout=300,
        output_hook=lambda message: published.append({"type": message["msg_type"], **message["content"]}),
    )
    return reply["content"], published


def test_a_bad_option_is_an_error_for_everyone(kernel: BlockingKernelClient) -> None:
    reply, published = run(kernel, "%quantize m --method nf5")
    errors = [message for message in published if message["type"] == "error"]
    assert reply["status"] == "error"
    assert [error["ename"] for error in errors] == ["MagicError"]
    assert len(errors[0]["traceback"]) == 1
    assert errors[0]["traceback"][0].startswith(
        "UnknownMethodError: no method 'nf5': did you mean nf4? the methods are"
    )


def test_a_cell_that_is_sent_after_one_that_failed_runs(kernel: BlockingKernelClient) -> None:
    """As on a machine so busy that a kernel has not ended what it does about an error when the next cell comes."""
    run(kernel, "get_ipython().kernel.stop_on_error_timeout = 600.0")
    assert run(kernel, "1 / 0")[0]["status"] == "error"
    assert run(kernel, "1")[0]["status"] == "ok"


def test_the_bar_comes_and_goes_and_the_record_stays(kernel: BlockingKernelClient, tiny_llama: Path) -> None:
    reply, published = run(kernel, f"%quantize {tiny_llama} --into q")
    assert reply["status"] == "ok"
    of = {kind: [m for m in published if m["type"] == kind] for kind in {m["type"] for m in published}}
    (bar,) = of["display_data"]
    (end,) = of["update_display_data"]
    assert WIDGET_VIEW in bar["data"]
    assert set(end["data"]) == {"text/plain", "text/html"}
    assert end["data"]["text/plain"].startswith(f"nf4 of {tiny_llama}: done after ")
    assert end["transient"]["display_id"] == bar["transient"]["display_id"]
    assert {m["comm_id"] for m in of["comm_open"]} == {m["comm_id"] for m in of["comm_close"]}
    assert bar["data"][WIDGET_VIEW]["model_id"] in {m["comm_id"] for m in of["comm_open"]}
    assert "footprint after" in of["execute_result"][0]["data"]["text/html"]


def test_what_nothing_will_keep_is_said_while_it_runs(kernel: BlockingKernelClient, tiny_llama: Path) -> None:
    _, published = run(kernel, f"%quantize {tiny_llama}")
    (end,) = [m for m in published if m["type"] == "update_display_data"]
    told = f"nf4 of {tiny_llama}, kept nowhere without --output or --into: done after "
    assert end["data"]["text/plain"].startswith(told)


def test_none_publishes_the_record_only(kernel: BlockingKernelClient, tiny_llama: Path) -> None:
    run(kernel, "%config QuantizeMagics.progress = 'none'")
    _, published = run(kernel, f"%quantize {tiny_llama} --into q")
    assert {message["type"] for message in published} - {"status", "execute_input"} == {"execute_result"}


def test_a_front_end_gets_completion_and_help(kernel: BlockingKernelClient) -> None:
    code = "x = %quantize m --method n"
    completed = kernel.complete(code, len(code), reply=True, timeout=60)["content"]
    assert "nf4" in completed["matches"]
    assert code[completed["cursor_start"] :] == "n"
    shown = kernel.inspect("%quantize", len("%quantize"), reply=True, timeout=60)["content"]
    assert "Method nf4: " in shown["data"]["text/plain"]
