"""What the evaluation measures, computed the plain way: a loop over windows and tokens in float64."""

import math
from typing import Any

import torch

from qtoolkit.stream.products import fast_products
from tests.texts.calibration_texts import TEXT

# Beginning of the text that the tests measure on; the rest is for calibration.
HELD_OUT = TEXT[:40_000]


def logits_of(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    """Logits of one window, as this processor multiplies, in float64 [seq_len, vocabulary]."""
    with torch.no_grad(), fast_products(model.device, model.dtype):
        return model(input_ids=tokens[None], use_cache=False).logits[0].double()


def windows_of(tokenizer: Any, text: str, seq_len: int, num_tokens: int) -> list[torch.Tensor]:
    """The beginning of a text, cut into windows that do not overlap."""
    ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"][:num_tokens]
    return [torch.tensor(ids[start : start + seq_len]) for start in range(0, len(ids) - seq_len + 1, seq_len)]


def perplexity(model: Any, windows: list[torch.Tensor]) -> float:
    """exp of the mean of -log p(token) over all tokens but the first of each window."""
    losses = []
    for tokens in windows:
        logits = logits_of(model, tokens)
        for place in range(1, len(tokens)):
            row = logits[place - 1]
            losses.append(float(torch.logsumexp(row, 0) - row[tokens[place]]))
    return math.exp(sum(losses) / len(losses))


def divergences(base: Any, model: Any, windows: list[torch.Tensor]) -> torch.Tensor:
    """sum of p * log(p / q) for each token but the last of each window, float64."""
    found = []
    for tokens in windows:
        p = logits_of(base, tokens)[:-1].softmax(-1)
        q = logits_of(model, tokens)[:-1].softmax(-1)
        found.append((p * (p / q).log()).sum(-1))
    return torch.cat(found)
