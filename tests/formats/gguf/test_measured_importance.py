"""The importance that a job measures on a text is that of a slow loop, weighs the rounding, and is llama.cpp's file."""

from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import qtoolkit as qt
from qtoolkit.checkpoints.imatrix import read_imatrix
from qtoolkit.errors import ConfigError
from qtoolkit.texts.calibration_text import load_calibration
from tests.methods.gptq.jobs import TEXTS
from tests.sample_models import random_model

pytestmark = pytest.mark.slow

SAMPLES, LENGTH = 3, 40
NAMES = {
    "blk.1.attn_k.weight": "model.layers.1.self_attn.k_proj",
    "blk.0.attn_output.weight": "model.layers.0.self_attn.o_proj",
    "blk.1.ffn_down.weight": "model.layers.1.mlp.down_proj",
}
MEASURED: dict[str, Any] = {"calibration": TEXTS, "num_samples": SAMPLES, "seq_len": LENGTH, "solve": False}


def slow_means(folder: Path, modules: list[str]) -> tuple[dict[str, list[torch.Tensor]], int]:
    """The mean squares of what modules get in the whole model, token by token, and the tokens of each."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval()
    seen: dict[str, list[torch.Tensor]] = {name: [] for name in modules}
    for name in modules:
        model.get_submodule(name).register_forward_pre_hook(
            lambda _module, args, to=seen[name]: to.extend(args[0].reshape(-1, args[0].shape[-1]).double().unbind())
        )
    tokenizer = AutoTokenizer.from_pretrained(folder)
    options: dict[str, Any] = {"num_samples": SAMPLES, "seq_len": LENGTH, "max_seq_len": None}
    text = load_calibration(TEXTS, tokenizer, **options, vocab_size=len(tokenizer), on_progress=lambda event: None)
    with torch.no_grad():
        for sample in text.tokens:
            model(sample[None])
    return seen, text.tokens.numel()


def test_it_is_the_mean_of_squares_and_the_file_makes_the_same_model(tiny_llama: Path, tmp_path: Path) -> None:
    made = qt.quantize(tiny_llama, qt.GGUF("Q4_0", **MEASURED), device="cpu", output=tmp_path / "made")
    kept = tmp_path / "made" / "imatrix.gguf_file"
    found = read_imatrix(kept)
    assert (found.datasets, found.chunk_count, found.chunk_size) == (("4 texts",), SAMPLES, LENGTH)
    assert len(found) == 2 * 7
    seen, count = slow_means(tiny_llama, list(NAMES.values()))
    for name, module in NAMES.items():
        expected = sum(row.square() for row in seen[module]) / count
        torch.testing.assert_close(found[name].double(), expected, rtol=2e-2, atol=1e-6)
    counts = {tensor.name: tensor.data.ravel() for tensor in gguf.GGUFReader(str(kept)).tensors}
    assert counts["blk.0.attn_q.weight.counts"].tolist() == [count]
    (file,) = (tmp_path / "made").glob("*.gguf")
    plan = qt.plan(tiny_llama, qt.GGUF("Q4_0", **MEASURED), device="cpu")
    assert file.stat().st_size == plan.disk_after
    assert any(f"measured on {SAMPLES} x {LENGTH} tokens of 4 texts" in note for note in made.report.notes)
    again = qt.quantize(tiny_llama, qt.GGUF("Q4_0", imatrix=str(kept)), device="cpu", output=tmp_path / "again")
    (other,) = (tmp_path / "again").glob("*.gguf")
    ours, theirs = (gguf.GGUFReader(str(one)).tensors for one in (file, other))
    assert all((one.data == two.data).all() for one, two in zip(ours, theirs, strict=True))
    plain = qt.quantize(tiny_llama, qt.GGUF("Q4_0"), device="cpu", output=tmp_path / "plain")
    assert plain.path is not None and again.path is not None
    (unweighed,) = plain.path.glob("*.gguf")
    changed = [
        one.name
        for one, two in zip(ours, gguf.GGUFReader(str(unweighed)).tensors, strict=True)
        if one.data.shape != two.data.shape or (one.data != two.data).any()
    ]
    assert len(changed) >= len(found)


def test_experts_have_their_own_and_their_own_tokens(tiny_llama: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    random_model("mixtral", torch.float32, vocab_size=len(tokenizer)).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    made = qt.quantize(tmp_path / "model", qt.GGUF("Q4_0", **MEASURED), device="cpu", output=tmp_path / "made")
    assert made.path is not None
    reader = gguf.GGUFReader(str(made.path / "imatrix.gguf_file"))
    counts = {tensor.name: tensor.data.ravel() for tensor in reader.tensors if tensor.name.endswith(".counts")}
    own = counts["blk.0.ffn_up_exps.weight.counts"]
    # Two of four experts take each token.
    assert len(own) == 4 and own.sum() == 2 * SAMPLES * LENGTH and len(set(own.tolist())) > 1
    assert counts["blk.0.attn_q.weight.counts"].tolist() == [SAMPLES * LENGTH]


def test_not_solving_needs_a_text() -> None:
    with pytest.raises(ConfigError, match="GGUF: solve=False is of a calibration text, and there is none: give one"):
        qt.GGUF(solve=False)
    with pytest.raises(ConfigError, match=r"imatrix names a file, and 'wikitext2' is none: .* and solve=False"):
        qt.GGUF(imatrix="wikitext2")
