"""What the phases of a GPTQ job take."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch

from qtoolkit.methods.gptq.job import LOSS_ROWS, PERPLEXITY_TOKENS
from qtoolkit.records import LayerPlan, PhasePlan, Term
from qtoolkit.stream import calibration_dtype
from qtoolkit.stream.cost import Work, on_device, reading_phase, weights_by_block, writing_phase
from qtoolkit.stream.samples import activation_bytes, samples_at_once

# Measured on SmolLM2-135M and Gemma 3 270M with torch 2.13: what half a megabyte of text leaves in memory once it is
# tokens, and what products leave there of oneDNN's.
_TEXT = Term("calibration text and its tokens", 31_000_000, "measured")
_PRODUCTS = Term("code and buffers of products", 45_000_000, "measured: oneDNN")
# The residual, its norm, and the output while a block runs; the hidden states that went in are the samples' own.
_HIDDEN_AT_ONCE = 3


def gptq_phases(work: Work, config: Any) -> tuple[PhasePlan, ...]:
    """Calibration, the blocks one by one, and the result read back.

    Hidden states of T tokens take T * hidden_size; a block's activations `activation_bytes`; layers with K inputs and N
    outputs, solved together, their Hessian, the factor and a copy in another order, 4 K^2 bytes each, and weight,
    errors, levels and products in float32, 4 K N each.
    """
    seq_len = min(config.seq_len, work.max_seq_len or config.seq_len)
    dtype = calibration_dtype(work.device, work.dtype)
    # Blocks are read in the type that they run in.
    wider = dtype.itemsize / work.dtype.itemsize
    work = replace(work, base=(*work.base, _TEXT, *_held(work, config)), expanded=0)
    written = [writing_phase(work, config.num_samples, seq_len, wider)] if config.calibration == "self" else []
    samples, embedded, running = _sample_terms(work, config.num_samples, seq_len, dtype.itemsize)
    in_blocks, outside = weights_by_block(work)
    first = Term("what stands before the blocks", round(outside * wider), "embeddings, norms")
    block = Term("a block's weights", round(max(in_blocks.values(), default=0) * wider), "the largest block")
    solving = Term("Hessian and solver", _solver_bytes(work.layers), "the largest layers that share inputs, float32")
    calibrating = replace(
        on_device(work, "calibrate", (first, samples, embedded), (samples,)),
        bytes_moved=outside,
        seconds=work.time(moved=outside, touched=outside + samples.size),
    )
    work = replace(work, base=(*work.base, _PRODUCTS))
    forward, solver = _operations(work, config.num_samples * seq_len, config.true_sequential)
    slow = forward if dtype == torch.float32 else 0.0
    done = sum(layer.disk_bytes for layer in work.layers)
    moved = work.weight_bytes + done
    quantizing = replace(
        on_device(work, "quantize", (samples, block, running, solving), (samples,)),
        # Text that the model writes is kept too, as int64.
        disk=done + (8 * config.num_samples * seq_len if written else 0),
        bytes_moved=moved,
        seconds=work.time(moved=moved, flops=forward - slow, flops32=solver + slow),
    )
    return (*written, calibrating, quantizing, _reading(work, seq_len))


def _held(work: Work, config: Any) -> Iterator[Term]:
    """What is in memory through the whole job where a model is not read block by block."""
    if work.expanded:
        yield Term("the .gguf file, expanded", work.expanded, "in bfloat16")
    if config.engine == "optimum":
        yield Term("the whole model", work.weight_bytes, "optimum loads it as it is")


def _sample_terms(work: Work, num_samples: int, seq_len: int, itemsize: int) -> tuple[Term, Term, Term]:
    """Hidden states of all samples, one batch of them embedded, and the activations of a block."""
    widest = max((max(layer.shape) for layer in work.layers), default=0)
    at_once = samples_at_once(itemsize, widest, num_samples, seq_len)
    token, tokens, here = work.hidden_size * itemsize, num_samples * seq_len, at_once * seq_len
    # In several batches, those that went in are held while those that come out are made.
    copies = 1 if at_once == num_samples else 2
    described = f"{tokens} tokens of {work.hidden_size}{', before and after a block' if copies == 2 else ''}"
    running = activation_bytes(itemsize, widest, here) + _HIDDEN_AT_ONCE * here * token
    return (
        Term("hidden states of the samples", copies * tokens * token, described),
        Term("embedded samples", here * token, "one batch"),
        Term(
            "a block's activations",
            running,
            f"{at_once} samples at one time, 4 of width {widest}, {_HIDDEN_AT_ONCE} of hidden size",
        ),
    )


def _reading(work: Work, seq_len: int) -> PhasePlan:
    """Return the result read back, and the perplexity of a sample."""
    layouts = max((layer.bytes_after for layer in work.layers), default=0)
    phase = reading_phase(work, "load", "a layer in two layouts", layouts)
    rows = min(seq_len, PERPLEXITY_TOKENS) * work.dtype.itemsize + 2 * LOSS_ROWS * 4
    logits = Term("logits of a sample", rows * work.vocab_size, "for the perplexity that is reported")
    if work.on_cpu:
        return replace(phase, memory=(*phase.memory, logits))
    return replace(phase, vram=(*phase.vram, logits))


def _solver_bytes(layers: tuple[LayerPlan, ...]) -> int:
    """Of the layers that are solved together, those of one module with as many inputs: gate and up, say."""
    outputs: dict[tuple[str, int], int] = defaultdict(int)
    for layer in layers:
        outputs[layer.name.rpartition(".")[0], layer.shape[1]] += layer.shape[0]
    return max((4 * 3 * inputs**2 + 4 * 4 * count * inputs for (_, inputs), count in outputs.items()), default=0)


def _operations(work: Work, tokens: int, true_sequential: bool) -> tuple[float, float]:
    """Operations in the model's type, and in float32: forwards and Hessians, factors and solving."""
    weights = sum(layer.num_weights for layer in work.layers)
    hessians = sum(float(layer.shape[1]) ** 2 for layer in work.layers)
    forwards = 1 if true_sequential else 2
    factors = sum(float(layer.shape[1]) ** 3 / 3 for layer in work.layers)
    solves = sum(float(layer.shape[1]) * layer.num_weights for layer in work.layers)
    # Half of the layers or more share a Hessian with another.
    return forwards * 2 * tokens * weights + tokens * hessians / 2, factors / 2 + 2 * solves
