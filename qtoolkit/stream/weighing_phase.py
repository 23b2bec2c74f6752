"""Estimate the memory, disk and time of weighing the tokens of a calibration text."""

from dataclasses import replace

from qtoolkit.records import PhasePlan, Term
from qtoolkit.stream.backward import LOGITS_AT_ONCE, tokens_with_logits
from qtoolkit.stream.cost import JobShape, on_device, weights_by_block
from qtoolkit.stream.loading import calibration_dtype
from qtoolkit.stream.samples import activation_bytes
from qtoolkit.stream.token_weights import PHASE, STORED, staged_bytes, weighed_at_once

# Times that the logits of all tokens are read or written: product, softmax, its sums, labels, gradient, product.
_LOGITS_TOUCHED = 8


def weights_term(job: JobShape, num_tokens: int) -> Term:
    """Return the memory of the weights of all tokens, for each module's layers with the same number of inputs."""
    groups = {(layer.name.rpartition(".")[0], layer.shape[1]) for layer in job.layers}
    return Term(
        "weights of tokens", 4 * num_tokens * len(groups), f"{num_tokens} tokens, {len(groups)} groups of layers"
    )


def weighing_phase(job: JobShape, num_samples: int, seq_len: int) -> PhasePlan:
    """Return the phase "weigh" at its peak: while a block's gradients or the gradients of logits are computed.

    Args:
        job: the job.
        num_samples: samples of the calibration text.
        seq_len: tokens of each.
    """
    dtype = calibration_dtype(job.device, job.dtype)
    wider = dtype.itemsize / job.dtype.itemsize
    in_blocks, outside = weights_by_block(job)
    widest = max((max(layer.shape) for layer in job.layers), default=0)
    tokens = num_samples * seq_len
    batch = weighed_at_once(dtype.itemsize, widest, num_samples, seq_len) * seq_len
    token = job.hidden_size * dtype.itemsize
    staged = staged_bytes(len(in_blocks), tokens, job.hidden_size, dtype.itemsize)
    head = sum(module.bytes_before for module in (*job.layers, *job.skipped) if module.name == job.head)
    rows = min(seq_len, tokens_with_logits(job.vocab_size))
    kept = (
        weights_term(job, tokens),
        Term("gradients of the hidden states", tokens * token, f"{tokens} tokens of {job.hidden_size}"),
    )
    backward = (
        Term("a block's weights", round(max(in_blocks.values(), default=0) * wider), "the largest block"),
        Term(
            "a block's activations and gradients",
            STORED * activation_bytes(dtype.itemsize, widest, batch),
            f"{batch // seq_len} samples at one time, {STORED} times a forward's",
        ),
    )
    top = (
        Term("what stands around the blocks", round((outside + head) * wider), "embeddings, norms, output head"),
        Term(
            "logits", rows * job.vocab_size * 4 * LOGITS_AT_ONCE, f"{rows} tokens, {LOGITS_AT_ONCE} copies in float32"
        ),
    )
    phases = [on_device(job, PHASE, (*kept, *terms), kept) for terms in (backward, top)]
    fullest = max(phases, key=lambda phase: (phase.peak_vram, phase.peak_rss))
    weights = sum(layer.num_weights for layer in job.layers)
    # Forward twice and backward once through the blocks, once each through the head.
    flops = 6.0 * tokens * weights + 4.0 * tokens * job.hidden_size * job.vocab_size
    moved = 2 * (job.read_bytes + staged)
    touched = 4 * _LOGITS_TOUCHED * tokens * job.vocab_size
    slow = flops if dtype.itemsize == 4 else 0.0
    return replace(
        fullest,
        disk=kept[0].size,
        temporary=staged,
        bytes_moved=moved,
        seconds=job.time(moved=moved, touched=touched, flops=flops - slow, flops32=slow),
    )
