"""What a plan counts for measuring sensitivities, with correction and without."""

from typing import Any

import pytest

import qtoolkit as qt
from qtoolkit.models.opening import open_checkpoint
from qtoolkit.planning.planner import plan_job
from qtoolkit.records import ignore_progress
from qtoolkit.sensitivity import NUM_SAMPLES, SEQ_LEN
from tests.sample_models import random_model


@pytest.mark.parametrize(
    ("architecture", "squares"),
    [
        # Queries, keys and values share theirs, and so do gate and up.
        ("llama", [64, 64, 64, 128]),
        ("phi3", [64, 64, 64, 128]),
        # The experts of a block count together: w1 and w3, w2.
        ("mixtral", [64, 64, 64, 128]),
    ],
)
def test_the_hessians_of_a_block_are_counted(architecture: str, squares: list[int]) -> None:
    terms = terms_of(architecture, qt.GPTQ(calibration=["a text"], group_size=32))
    assert terms["Hessians of a block's inputs"] == 4 * sum(inputs**2 for inputs in squares)
    assert "Hessians of a block's inputs" not in terms_of(architecture, qt.AbsMax(granularity="group"))


def test_embeddings_are_rounded_some_rows_at_a_time() -> None:
    """2**20 weights of them: three copies for each choice, and twice the changes of the logits of 83 tokens."""
    config = qt.GPTQ(calibration=["a text"], group_size=32, format="compressed-tensors", embeddings=8)
    terms = terms_of("llama", config, vocab_size=100_000)
    assert terms["rows of embeddings with each choice"] == 4 * 2 * (3 * 2**20 + 2 * 83 * 2**20 // 64)
    # There are no more rows than tokens of the vocabulary, and logits of no more tokens than are measured.
    few = terms_of("llama", config)["rows of embeddings with each choice"]
    assert few == 4 * 2 * 256 * (3 * 64 + 2 * NUM_SAMPLES * SEQ_LEN)
    # Counted as layers of the blocks, the embeddings would take more at their gradients than the logits do.
    assert "a layer's roundings in float32" not in terms


def terms_of(architecture: str, config: Any, **changes: Any) -> dict[str, int]:
    """The memory of the phase "measure" for two choices of bits."""
    model = random_model(architecture, **changes)
    checkpoint = open_checkpoint(model, revision=None, token=None, tokenizer=None, on_progress=ignore_progress)
    plan = plan_job(checkpoint, config, "cpu", None, rss=0, measures=2).plan
    phase = next(phase for phase in plan.phases if phase.name == "measure")
    return {term.name: term.size for term in phase.memory}
