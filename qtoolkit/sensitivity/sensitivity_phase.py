"""Estimate the memory and time of measuring the sensitivity of a model's layers."""

from collections import defaultdict
from dataclasses import replace

from qtoolkit.readers import fused_unit
from qtoolkit.records import PhasePlan, Term
from qtoolkit.sensitivity.measuring import NUM_SAMPLES, SEQ_LEN
from qtoolkit.sensitivity.outside_blocks import AT_ONCE
from qtoolkit.stream.backward import LOGITS_AT_ONCE, tokens_with_logits
from qtoolkit.stream.cost import JobShape, on_device, weights_by_block, writing_phase
from qtoolkit.stream.loading import calibration_dtype

# Activations of one sample that a block stores for its gradients, as multiples of its widest: a gated MLP, norms in
# float32, queries, keys, values and their products.
_STORED_ACTIVATIONS = 12
# Of rows of an embedding with each choice: rounded, their differences from the weight, and these in one tensor.
_COPIES_OF_ROWS = 3


def sensitivity_phase(job: JobShape, num_choices: int, *, writes_text: bool, corrects: bool) -> PhasePlan:
    """Return the phase "measure" at its peak: while text is generated, or a block's gradients or logits are computed.

    Args:
        job: the job.
        num_choices: how many different numbers of bits each layer may get.
        writes_text: whether the model generates the text itself.
        corrects: whether the method corrects layers by their inputs.
    """
    dtype = calibration_dtype(job.device, job.dtype)
    wider = dtype.itemsize / job.dtype.itemsize
    in_blocks, outside = weights_by_block(job)
    largest = round(max(in_blocks.values(), default=0) * wider)
    inner = [layer for layer in job.layers if layer.name.startswith(f"{job.blocks}.")]
    widest = max((max(layer.shape) for layer in inner), default=0)
    layer = max((layer.num_weights for layer in inner), default=0)
    tokens = NUM_SAMPLES * SEQ_LEN
    # The inputs of each block, and the gradients of one block's outputs.
    state_bytes = (len(in_blocks) + 2) * tokens * job.hidden_size * dtype.itemsize
    states = Term("hidden states between all blocks", state_bytes, f"{tokens} tokens of {job.hidden_size}")
    head = sum(module.bytes_before for module in (*job.layers, *job.skipped) if module.name == job.head)
    rows = min(SEQ_LEN, tokens_with_logits(job.vocab_size))
    logits = rows * job.vocab_size * 4 * LOGITS_AT_ONCE
    gradients: tuple[Term, ...] = (
        Term("a block's weights, gradients and roundings", (2 + num_choices) * largest, "the largest block"),
        Term("a layer's roundings in float32", 4 * (num_choices + 2) * layer, "the largest layer"),
        Term("a block's activations", _STORED_ACTIVATIONS * widest * SEQ_LEN * 4, f"one sample of {SEQ_LEN} tokens"),
    )
    squares = inputs_of_blocks(job) if corrects else []
    if corrects:
        hessians = 4 * max(map(sum, squares), default=0)
        widest_inputs = max((count for own in squares for count in own), default=0)
        gradients += (
            Term("Hessians of a block's inputs", hessians, "float32"),
            Term("the widest of them while it is factored", 4 * 3 * widest_inputs, "copies, float32"),
        )
    top: tuple[Term, ...] = (
        Term("what stands around the blocks", round((outside + head) * wider), "embeddings, norms, output head"),
        Term("logits", logits, f"{rows} tokens, {LOGITS_AT_ONCE} copies in float32"),
    )
    if len(inner) < len(job.layers):
        at_once = min(job.vocab_size, max(1, AT_ONCE // max(job.hidden_size, 1)))
        # Changes of the logits of some tokens, and their squares.
        changed = 2 * min(tokens, tokens_with_logits(job.vocab_size))
        size = 4 * num_choices * at_once * (_COPIES_OF_ROWS * job.hidden_size + changed)
        top += (Term("rows of embeddings with each choice", size, "as many as have 1,048,576 weights, float32"),)
    phases = [on_device(job, "measure", (states, *terms), (states,)) for terms in (gradients, top)]
    if writes_text:
        phases.append(replace(writing_phase(job, NUM_SAMPLES, SEQ_LEN, wider), name="measure"))
    fullest = max(phases, key=lambda phase: (phase.peak_vram, phase.peak_rss))
    weights = sum(layer.num_weights for layer in job.layers)
    # One forward more; Hessians and their factors; for each number of bits, every column changes those after it.
    solving = 2.0 * tokens * weights + sum(sum(own) * tokens for own in squares) if corrects else 0.0
    solves = sum(2.0 * num_choices * layer.num_weights * layer.shape[1] for layer in inner) if corrects else 0.0
    solves += sum(count**1.5 / 3 for own in squares for count in own)
    times = job.time(
        moved=2 * job.read_bytes,
        touched=4 * NUM_SAMPLES * num_choices * weights,
        flops=8.0 * tokens * weights + solving,
        flops32=solves,
    )
    return replace(fullest, bytes_moved=2 * job.read_bytes, seconds=times)


def inputs_of_blocks(job: JobShape) -> list[list[int]]:
    """Return for each block the squares of the numbers of inputs of its layers, once for layers that share them.

    Layers that are fused share their inputs; those of a block's experts count together.
    """
    blocks: dict[str, dict[tuple[str, int], int]] = defaultdict(dict)
    prefix = f"{job.blocks}."
    for layer in job.layers:
        if layer.name.startswith(prefix):
            inputs = layer.shape[1]
            blocks[layer.name.removeprefix(prefix).split(".")[0]][fused_unit(layer.name), inputs] = inputs**2
    return [list(own.values()) for own in blocks.values()]
