"""Blocks get what belongs to the tokens of their own batch, beside the hidden states."""

from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from qtoolkit.evaluation.scoring import StreamedScorer
from qtoolkit.models.opening import open_checkpoint
from scripts.small_models import small_config

TOKENS = torch.arange(3, 99).view(3, 32)  # [samples, tokens]
# Their blocks get values that depend on the tokens; those of Gemma also keys and values that other blocks left.
CHANGES: dict[str, dict[str, Any]] = {
    "gemma3n_text": {
        "num_hidden_layers": 4,
        "num_kv_shared_layers": 2,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "activation_sparsity_pattern": [0.0] * 4,
        "intermediate_size": [128] * 4,
    },
    "gemma4_text": {},
}


@pytest.fixture(scope="module", params=CHANGES)
def model(request: pytest.FixtureRequest) -> Any:
    """A small random model of a type in float32."""
    config = small_config(request.param)
    torch.manual_seed(0)
    changed = type(config)(**config.to_dict() | CHANGES[request.param])
    return AutoModelForCausalLM.from_config(changed, dtype=torch.float32).eval()


def opened(model: Any) -> Any:
    return open_checkpoint(model, revision=None, token=None, tokenizer=None, on_progress=lambda _event: None)


def test_each_window_is_scored_as_by_the_whole_model(model: Any) -> None:
    scorer = StreamedScorer(opened(model), "cpu", torch.float32)
    with scorer.open(TOKENS, lambda _event: None) as predictor, torch.no_grad():
        for index in range(len(TOKENS)):
            expected = model(input_ids=TOKENS[index : index + 1], use_cache=False).logits[0]
            torch.testing.assert_close(predictor.logits(index), expected, rtol=1e-4, atol=1e-5)
