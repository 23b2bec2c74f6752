"""Sizes of models that everybody knows, from their configs alone, and what published formulas make of them."""

import pytest

import qtoolkit as qt
from tests.sample_models import config_of

# fp16 and fp32: parameters of the papers times 2 and 4 bytes. NF4 with double quantization: 4.127 bits for each weight
# of the blocks' linear layers (arXiv 2305.14314, section 3), 16 for embeddings, output head and norms.
FULL = {"7b": 13.5e9, "13b": 26.1e9, "70b": 138e9, "gpt2-xl": 6.2e9, "65b": 260e9}
NF4 = {"7b": 3.87e9, "13b": 7.20e9, "70b": 36.4e9}


@pytest.mark.parametrize(("name", "size"), FULL.items(), ids=FULL)
def test_full_precision(name: str, size: float) -> None:
    plan = qt.plan(config_of(name), "nf4", machine="a100-80", device="cpu")
    assert plan.source.footprint == pytest.approx(size, rel=0.01)


@pytest.mark.parametrize(("name", "size"), NF4.items(), ids=NF4)
def test_nf4(name: str, size: float) -> None:
    plan = qt.plan(config_of(name), "nf4", machine="a100-80", device="cpu")
    assert plan.footprint_after == pytest.approx(size, rel=0.01)


@pytest.mark.parametrize(("name", "per_token"), [("7b", 524_288), ("70b", 327_680)], ids=["all heads", "8 of 64"])
def test_keys_and_values(name: str, per_token: int) -> None:
    """Llama-2 7B: 2 x 32 layers x 4096 x 2 bytes; 70B: 2 x 80 layers x 8 heads of 128 x 2 bytes."""
    plan = qt.plan(config_of(name), "nf4", machine="a100-80", context=1000, batch_size=3)
    kept = next(term.size for term in plan.inference.vram if term.name == "keys and values")
    assert kept == 3000 * per_token


def test_a_context_is_no_longer_than_the_model_knows() -> None:
    plan = qt.plan(config_of("7b"), "nf4", machine="a100-80", context=100_000)
    assert plan.inference.name == "inference with 4096 tokens"
