"""List what was decided for a checkpoint while it was opened, and what it lacks."""

from collections.abc import Iterator
from typing import Any

from qtoolkit.models.checkpoint import Checkpoint
from qtoolkit.models.dtypes import stored_dtype


def opening_notes(checkpoint: Checkpoint, *, reads_tokenizer: bool = True) -> Iterator[str]:
    """Yield one line for each: another type than the stored one, no tokenizer, tokens that have no embedding.

    Args:
        checkpoint: the model with its config and tokenizer.
        reads_tokenizer: whether its tokenizer was looked for.
    """
    stored = stored_dtype(checkpoint.tensors)
    if stored != checkpoint.dtype and checkpoint.quantization is None:
        yield f"loaded in {checkpoint.dtype} as the config says, and stored in {stored}"
    if reads_tokenizer and checkpoint.tokenizer is None:
        yield "no tokenizer was found beside the model: give one as tokenizer= to generate text"
    config = checkpoint.config.get_text_config()
    num_embeddings = getattr(config, "vocab_size", None)
    if not isinstance(num_embeddings, int):
        return
    known = f"the model has embeddings for {num_embeddings}"
    num_tokens = _num_tokens(checkpoint.tokenizer)
    if num_tokens > num_embeddings:
        yield f"the tokenizer knows {num_tokens} tokens, and {known}: text with others is refused"
    for file, values in (("config.json", config), ("generation_config.json", checkpoint.generation_config)):
        pad = getattr(values, "pad_token_id", None)
        if isinstance(pad, int) and not 0 <= pad < num_embeddings:
            yield f"{file} pads with token {pad}, and {known}: set pad_token_id to another, to pad texts"


def _num_tokens(tokenizer: Any) -> int:
    """Return one more than the largest token that a tokenizer makes; 0 where its length is not known."""
    try:
        # Added tokens may have numbers beyond a gap.
        added: list[int] = [*getattr(tokenizer, "added_tokens_decoder", ())]
        return max(len(tokenizer), 1 + max(added, default=-1))
    except TypeError:
        return 0
