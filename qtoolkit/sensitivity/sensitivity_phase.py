"""Estimate the memory and time of measuring the sensitivity of a model's layers."""

from dataclasses import replace

from qtoolkit.records import PhasePlan, Term
from qtoolkit.sensitivity.measuring import NUM_SAMPLES, SEQ_LEN
from qtoolkit.stream.backward import LOGITS_AT_ONCE, tokens_with_logits
from qtoolkit.stream.cost import JobShape, on_device, weights_by_block, writing_phase
from qtoolkit.stream.loading import calibration_dtype

# Activations of one sample that a block stores for its gradients, as multiples of its widest: a gated MLP, norms in
# float32, queries, keys, values and their products.
_STORED_ACTIVATIONS = 12


def sensitivity_phase(job: JobShape, num_choices: int, *, writes_text: bool) -> PhasePlan:
    """Return the phase "measure" at its peak: while text is generated, or a block's gradients or logits are computed.

    Args:
        job: the job.
        num_choices: how many different numbers of bits each layer may get.
        writes_text: whether the model generates the text itself.
    """
    dtype = calibration_dtype(job.device, job.dtype)
    wider = dtype.itemsize / job.dtype.itemsize
    in_blocks, outside = weights_by_block(job)
    largest = round(max(in_blocks.values(), default=0) * wider)
    widest = max((max(layer.shape) for layer in job.layers), default=0)
    layer = max((layer.num_weights for layer in job.layers), default=0)
    tokens = NUM_SAMPLES * SEQ_LEN
    # The inputs of each block, and the gradients of one block's outputs.
    state_bytes = (len(in_blocks) + 2) * tokens * job.hidden_size * dtype.itemsize
    states = Term("hidden states between all blocks", state_bytes, f"{tokens} tokens of {job.hidden_size}")
    head = sum(module.bytes_before for module in (*job.layers, *job.skipped) if module.name == job.head)
    rows = min(SEQ_LEN, tokens_with_logits(job.vocab_size))
    logits = rows * job.vocab_size * 4 * LOGITS_AT_ONCE
    gradients = (
        Term("a block's weights, gradients and roundings", (2 + num_choices) * largest, "the largest block"),
        Term("a layer's roundings in float32", 4 * (num_choices + 2) * layer, "the largest layer"),
        Term("a block's activations", _STORED_ACTIVATIONS * widest * SEQ_LEN * 4, f"one sample of {SEQ_LEN} tokens"),
    )
    top = (
        Term("what stands around the blocks", round((outside + head) * wider), "embeddings, norms, output head"),
        Term("logits", logits, f"{rows} tokens, {LOGITS_AT_ONCE} copies in float32"),
    )
    phases = [on_device(job, "measure", (states, *terms), (states,)) for terms in (gradients, top)]
    if writes_text:
        phases.append(replace(writing_phase(job, NUM_SAMPLES, SEQ_LEN, wider), name="measure"))
    fullest = max(phases, key=lambda phase: (phase.peak_vram, phase.peak_rss))
    weights = sum(layer.num_weights for layer in job.layers)
    times = job.time(
        moved=2 * job.weight_bytes, touched=4 * NUM_SAMPLES * num_choices * weights, flops=8.0 * tokens * weights
    )
    return replace(fullest, bytes_moved=2 * job.weight_bytes, seconds=times)
