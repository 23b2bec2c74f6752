"""Models are scored block by block as they are whole, whatever their blocks return and whichever parts come first."""

import pytest
import torch

from qtoolkit.evaluation.scoring import StreamedScorer
from qtoolkit.models.opening import open_checkpoint
from scripts.small_models import small_model

TOKENS = torch.arange(3, 67).view(2, 32)  # [samples, tokens]
# Type -> what is odd about it.
ODD = {
    "openai-gpt": "blocks that return lists",
    "hy_v4": "blocks that tell the next one which tokens to look at",
    "idefics3": "a tower for images, on whose device tokens are looked up",
}


@pytest.mark.parametrize("kind", ODD)
def test_logits_are_those_of_the_whole_model(kind: str) -> None:
    model = small_model(kind, dtype=torch.float32)
    checkpoint = open_checkpoint(model, revision=None, token=None, tokenizer=None, on_progress=lambda _event: None)
    scorer = StreamedScorer(checkpoint, "cpu", torch.float32)
    with scorer.open(TOKENS, lambda _event: None) as predictor, torch.no_grad():
        for index in range(len(TOKENS)):
            expected = model(input_ids=TOKENS[index : index + 1], use_cache=False).logits[0]
            torch.testing.assert_close(predictor.logits(index), expected, rtol=1e-4, atol=1e-5)
