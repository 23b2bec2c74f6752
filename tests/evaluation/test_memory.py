"""A base that is named is never whole in memory."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.sample_models import random_model

pytestmark = pytest.mark.slow

MEASURE = """
import sys, torch, transformers
import qtoolkit as qt
qt.evaluate(sys.argv[2], text=[sys.argv[3]], seq_len=32, num_tokens=64, device="cpu")
with qt.measure_peak() as meter:
    report = qt.evaluate(sys.argv[1], text=[sys.argv[3]], seq_len=32, num_tokens=64, device="cpu")
print(meter.report.peak_rss - meter.report.rss_before)
"""


def test_a_block_at_a_time_is_in_memory(tmp_path: Path, tiny_llama: Path, tokenizer: object) -> None:
    sizes = {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 16, "tie_word_embeddings": True}
    model = random_model("llama", torch.float32, vocab_size=49152, **sizes)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)  # type: ignore[attr-defined]
    whole = sum(parameter.nbytes for parameter in model.parameters())
    outside = model.get_input_embeddings().weight.nbytes
    run = [sys.executable, "-c", MEASURE, str(tmp_path), str(tiny_llama), "one two three four " * 40]
    done = subprocess.run(run, check=True, capture_output=True, text=True)
    # What stands outside the blocks, a block or two, and logits.
    assert outside < int(done.stdout) < outside + 0.4 * (whole - outside)
