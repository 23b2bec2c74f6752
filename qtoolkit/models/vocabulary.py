"""Tokens that a tokenizer makes, or a config names, and that a model has no embedding for."""

from collections.abc import Iterator
from typing import Any

from qtoolkit.models.checkpoint import Checkpoint


def beyond_embeddings(checkpoint: Checkpoint) -> Iterator[str]:
    """What a reader has to know of tokens beyond the model's embeddings, one line each.

    Args:
        checkpoint: its config and tokenizer read.
    """
    config = checkpoint.config.get_text_config()
    rows, tokens = getattr(config, "vocab_size", None), _num_tokens(checkpoint.tokenizer)
    if not isinstance(rows, int):
        return
    known = f"the model has embeddings for {rows}"
    if tokens > rows:
        yield f"the tokenizer knows {tokens} tokens, and {known}: text with others is refused"
    for file, settings in (("config.json", config), ("generation_config.json", checkpoint.generation_config)):
        pad = getattr(settings, "pad_token_id", None)
        if isinstance(pad, int) and not 0 <= pad < rows:
            yield f"{file} pads with token {pad}, and {known}: set pad_token_id to another, to pad texts"


def _num_tokens(tokenizer: Any) -> int:
    """One more than the largest token that a tokenizer makes; 0 where it does not tell."""
    try:
        # Added tokens may stand beyond a gap.
        added: list[int] = [*getattr(tokenizer, "added_tokens_decoder", ())]
        return max(len(tokenizer), 1 + max(added, default=-1))
    except TypeError:
        return 0
