"""A long job sends the page few messages, and leaves little in the notebook's file."""

import re
from datetime import datetime
from pathlib import Path

from playwright.sync_api import WebSocket
from transformers import AutoTokenizer

from tests.browser.lab import Lab
from tests.browser.panel import open_panel
from tests.sample_models import random_model

COMM = re.compile(rb'"msg_type":\s*"comm_msg"')
DATE = re.compile(rb'"date":\s*"([^"]+)"')


def test_at_most_ten_a_second(lab: Lab, tiny_llama: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    random_model("llama", num_hidden_layers=60, vocab_size=49152).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    sent: list[float] = []

    def note(frame: bytes | str) -> None:
        content = frame if isinstance(frame, bytes) else frame.encode()
        if COMM.search(content):
            # When the kernel sent it: this is called only when the test waits.
            sent.append(datetime.fromisoformat(DATE.search(content)[1].decode()).timestamp())

    def listen(socket: WebSocket) -> None:
        socket.on("framereceived", note)

    lab.page.on("websocket", listen)
    panel = open_panel(lab, "messages.ipynb", f"qt.panel({str(tmp_path)!r})")
    panel.turn_to("Plan")
    panel.shown.get_by_text("on disk").first.wait_for()
    panel.turn_to("Quantize")
    lab.page.wait_for_timeout(1000)
    sent.clear()
    panel.press("Quantize")
    panel.wait_for("nf4 of .*: done")
    lab.page.remove_listener("websocket", listen)
    assert len(sent) > 10
    in_a_second = [sum(start <= other < start + 1 for other in sent) for start in sent]
    assert max(in_a_second) <= 10
    lab.save()
    assert (lab.server.work / "messages.ipynb").stat().st_size < 20_000
