"""Tell what some layers do without: notes of a GPTQ plan and of its report."""

from qtoolkit.methods.gptq import ENOUGH_TOKENS, GPTQ
from qtoolkit.methods.gptq.layer_inputs import FEW_TOKENS, SHARED_TOKENS
from qtoolkit.records import LayerError, LayerPlan

# Layers without tokens that a note names.
_NAMED = 3


def note_on_few_tokens(config: GPTQ, layers: tuple[LayerPlan, ...]) -> tuple[str, ...]:
    """Return a note if the calibration text is short for the correction of the widest layers."""
    tokens = config.num_samples * config.seq_len
    widest = max((layer.shape[1] for layer in layers), default=0)
    if not config.qep_alpha or tokens >= ENOUGH_TOKENS * widest:
        return ()
    enough = f"all of it from {ENOUGH_TOKENS * widest:,} tokens on"
    return (f"qep_alpha: {tokens:,} tokens are few for layers of {widest:,} inputs, which make good less: {enough}",)


def notes_on_experts(config: GPTQ, layers: tuple[LayerPlan, ...]) -> tuple[str, ...]:
    """Return notes on what layers of experts do without."""
    if not any(_are_experts([layer.name]) for layer in layers):
        return ()
    notes = []
    if config.token_weights:
        notes.append("token_weights: tokens count alike for layers of experts, which get some of the tokens only")
    if config.qep_alpha:
        notes.append("qep_alpha: layers of experts make nothing good, since quantizing sends them other tokens")
    return tuple(notes)


def note_on_unseen(layers: tuple[LayerError, ...]) -> tuple[str, ...]:
    """Return a note on the layers that no token reached, such as those of an expert that was never chosen."""
    names = [layer.name for layer in layers if not layer.num_inputs]
    if not names:
        return ()
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    count = f"{len(names)} of {len(layers)} layers ({', '.join(names[:_NAMED])}{more})"
    of_all = "calibrated with the tokens of all experts"
    what = f"which were {of_all if _are_experts(names) else 'rounded to the nearest code'}"
    return (f"no token reached {count}, {what}: give more samples, or other text",)


def note_on_few(layers: tuple[LayerError, ...]) -> tuple[str, ...]:
    """Return a note on the experts that saw so few tokens that those of all experts were taken into account too."""
    few = [layer for layer in layers if 0 < layer.num_inputs < FEW_TOKENS and _are_experts([layer.name])]
    if not few:
        return ()
    fewest = min(few, key=lambda layer: layer.num_inputs)
    note = (
        f"{len(few)} of {len(layers)} layers are of experts that got fewer than {FEW_TOKENS:,} tokens (fewest: "
        f"{fewest.name}, {fewest.num_inputs:,}): those of all experts counted as {SHARED_TOKENS} beside their own"
    )
    return (note,)


def _are_experts(names: list[str]) -> bool:
    """Check whether layers are of experts, which have a number beside that of their block."""
    return all(sum(part.isdigit() for part in name.split(".")) > 1 for name in names)


def notes_on_two_bits(config: GPTQ, layers: tuple[LayerPlan, ...]) -> tuple[str, ...]:
    """Return a note on codes so small that the model suffers; none where few layers have them."""
    # SmolLM2-135M, groups of 64, no other option on: perplexity 992, 67 with full_range, and 20 in bfloat16. Fewer
    # than half of the layers may be a target's choice, which gives 2 bits where they cost least.
    with_two = sum(layer.bits == 2 for layer in layers)
    if config.sym and with_two and not config.full_range:
        return ("models fall apart with 2 bits and scales of one sign: give full_range=True, or more bits",)
    if config.sym and 2 * with_two > len(layers):
        return ("models lose much of what they know with 2 bits: give more bits",)
    return ()
