"""Models whose blocks cannot run one by one are told by what they do, and GPTQ's plan refuses them."""

import pytest
import torch
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

import qtoolkit as qt
from qtoolkit.errors import UnsupportedModelError
from qtoolkit.models.block_passing import why_not_one_by_one
from scripts.small_models import small_model

REASONS = {
    "xlm": "has the layers of each block in several lists (transformer.attentions, transformer.ffns)",
    "hrm_text": "has no list of blocks",
    # Tensors, tuples, and tuples of which more than hidden states go on.
    "ctrl": "",
    "openai-gpt": "",
    "hy_v4": "",
}


# Colab's transformers does not know all of them.
@pytest.mark.parametrize("kind", [kind for kind in REASONS if kind in CONFIG_MAPPING])
def test_the_reason_is_told(kind: str) -> None:
    assert why_not_one_by_one(small_model(kind, dtype=torch.bfloat16).to("meta")) == REASONS[kind]


@pytest.mark.parametrize(("calls", "told"), [(2, "more than once"), (1, "as they are")], ids=["again", "changed"])
def test_blocks_that_run_again_or_on_something_else_are_told(calls: int, told: str) -> None:
    model = small_model("llama", dtype=torch.bfloat16).to("meta")

    def forward(input_ids: torch.Tensor, **_others: object) -> None:
        hidden = model.model.embed_tokens(input_ids)
        for block in model.model.layers:
            for _ in range(calls):
                hidden = block(hidden)
            hidden = hidden[0] if isinstance(hidden, tuple) else hidden
            hidden = hidden if calls == 2 else hidden + 1

    model.forward = forward
    assert told in why_not_one_by_one(model)


def test_the_plan_refuses_and_names_another_way() -> None:
    model = small_model("hrm_text", dtype=torch.bfloat16)
    with pytest.raises(UnsupportedModelError, match="has no list of blocks: take a method without text"):
        qt.plan(model, "gptq", device="cpu")
    assert len(qt.plan(model, "absmax", device="cpu").layers) > 0
