"""Estimate memory, disk and time of each phase of a GPTQ job."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace

import torch

from qtoolkit.methods.gptq import GPTQ
from qtoolkit.methods.gptq.calibrated_job import LOSS_ROWS, PERPLEXITY_TOKENS
from qtoolkit.methods.gptq.hidden_states import states_term, stay_on_gpu
from qtoolkit.methods.gptq.refining import BLOCK
from qtoolkit.records import LayerPlan, PhasePlan, Term
from qtoolkit.stream.cost import JobShape, loading_phase, on_device, weights_by_block, writing_phase
from qtoolkit.stream.groups import is_indexed
from qtoolkit.stream.loading import calibration_dtype
from qtoolkit.stream.samples import activation_bytes, samples_at_once
from qtoolkit.stream.weighing_phase import weighing_phase, weights_term
from qtoolkit.texts.texts import is_self

# Measured on SmolLM2-135M and Gemma 3 270M with torch 2.13: what half a megabyte of text leaves in memory once it is
# tokenized, and what oneDNN keeps there after the first products.
_TEXT = Term("calibration text and its tokens", 31_000_000, "measured")
_PRODUCTS = Term("code and buffers of products", 45_000_000, "measured: oneDNN")
# The residual, its norm, and the output while a block runs; its inputs are counted with the samples.
_HIDDEN_AT_ONCE = 3
# The inputs of attention in the full-precision model, which wait while its MLP runs.
_EXACT_AT_ONCE = 1


def gptq_phases(job: JobShape, config: GPTQ, *, solves: bool = True) -> tuple[PhasePlan, ...]:
    """Return the phases: calibration, the blocks one by one, and reading the result back.

    Hidden states of T tokens take T * hidden_size elements, a block's activations `activation_bytes`. Layers with K
    inputs and N outputs that are solved together take 4 K^2 bytes each for their Hessian, its factor and a reordered
    copy, and 4 K N bytes each for weight, errors, levels and products in float32. A second stream (`qep_alpha`) has
    hidden states of its own, 4 K^2 bytes of products more, and two copies of the weight while it is corrected; if
    several batches run through a block, the block's original weights stay in memory beside the new ones.

    Args:
        job: the job.
        config: the text, and how layers are solved.
        solves: whether they are; otherwise the text runs through the model once, and inputs are observed.
    """
    seq_len = min(config.seq_len, job.max_seq_len or config.seq_len)
    dtype = calibration_dtype(job.device, job.dtype)
    # Blocks are read in the type that they compute in.
    wider = dtype.itemsize / job.dtype.itemsize
    text = (_TEXT,) if job.reads_text else ()
    job = replace(job, base=(*job.base, *text, *_resident_terms(job, config)), expanded=0)
    written = [writing_phase(job, config.num_samples, seq_len, wider)] if is_self(config.calibration) else []
    inner = tuple(layer for layer in job.layers if layer.name.startswith(f"{job.blocks}."))
    samples, embedded, running = _sample_terms(job, inner, config, seq_len, dtype.itemsize)
    in_blocks, outside = weights_by_block(job)
    first = Term("what stands before the blocks", round(outside * wider), "embeddings, norms")
    # Every batch runs once more through the original weights for each group of layers.
    kept = 2 if config.qep_alpha and config.true_sequential and embedded.size < samples.size // 2 else 1
    described = f"the largest block{', as it was and as it becomes' if kept == 2 else ''}"
    block = Term("a block's weights", round(kept * max(in_blocks.values(), default=0) * wider), described)
    solver_bytes = _solver_bytes(inner, corrected=config.qep_alpha > 0)
    solver = Term("Hessian and solver", solver_bytes, "the largest layers that share inputs, float32")
    solving = (solver,) if solves else ()
    others = block.size + running.size + solver.size
    on_gpu = solves and stay_on_gpu(job, config, samples.size, others)
    samples = states_term(job, samples.size, samples.source, on_gpu=on_gpu)
    in_memory = () if on_gpu else (samples,)
    calibrating = replace(
        on_device(job, "calibrate", (first, samples, embedded), in_memory),
        bytes_moved=outside,
        seconds=job.time(moved=outside, touched=outside + samples.size),
    )
    job = replace(job, base=(*job.base, _PRODUCTS))
    weighing = []
    if config.token_weights and inner:
        weighing.append(weighing_phase(replace(job, layers=inner), config.num_samples, seq_len))
        job = replace(job, base=(*job.base, weights_term(job, config.num_samples * seq_len)))
    forward, factors = _operations(inner, config, config.num_samples * seq_len)
    if not solves:
        forward, factors = 2.0 * config.num_samples * seq_len * sum(layer.num_weights for layer in inner), 0.0
    slow = forward if dtype == torch.float32 else 0.0
    done = sum(layer.disk_bytes for layer in job.layers) if solves else 0
    groups = _group_bytes(job, inner) if solves else 0
    moved = job.read_bytes + done
    quantizing = replace(
        on_device(job, "quantize" if solves else "calibrate", (samples, block, running, *solving), in_memory),
        # The journal also stores text that the model wrote, as int64.
        disk=done + groups + (8 * config.num_samples * seq_len if written else 0),
        bytes_moved=moved,
        seconds=job.time(moved=moved, flops=forward - slow, flops32=factors + slow),
    )
    return (*written, calibrating, *weighing, quantizing, _reading(job, seq_len))


def _resident_terms(job: JobShape, config: GPTQ) -> Iterator[Term]:
    """Yield what is in memory during the whole job where the model is not read block by block."""
    if job.expanded:
        yield Term("the .gguf file, expanded", job.expanded, "in bfloat16")
    if config.engine == "optimum":
        yield Term("the whole model", job.weight_bytes, "optimum loads it as it is")


def _sample_terms(
    job: JobShape, layers: tuple[LayerPlan, ...], config: GPTQ, seq_len: int, itemsize: int
) -> tuple[Term, Term, Term]:
    """Return the memory of the hidden states of all samples, of one embedded batch, and of a block's activations."""
    widest = max((max(layer.shape) for layer in layers), default=0)
    num_samples = config.num_samples
    at_once = samples_at_once(itemsize, widest, num_samples, seq_len)
    token = job.hidden_size * itemsize
    tokens = num_samples * seq_len
    batch = at_once * seq_len
    # With several batches, a block's inputs are in memory until all of its outputs are.
    copies = 1 if at_once == num_samples else 2
    described = f"{tokens} tokens of {job.hidden_size}{', before and after a block' if copies == 2 else ''}"
    hidden_at_once = _HIDDEN_AT_ONCE
    if config.qep_alpha:
        copies += 1
        described += ", and those of the full-precision model"
        hidden_at_once += _EXACT_AT_ONCE
    running = activation_bytes(itemsize, widest, batch) + hidden_at_once * batch * token
    return (
        Term("hidden states of the samples", copies * tokens * token, described),
        Term("embedded samples", batch * token, "one batch"),
        Term(
            "a block's activations",
            running,
            f"{at_once} samples at one time, 4 of width {widest}, {hidden_at_once} of hidden size",
        ),
    )


def _reading(job: JobShape, seq_len: int) -> PhasePlan:
    """Return the phase that reads the result back and measures the perplexity of a sample."""
    phase = loading_phase(job)
    rows = min(seq_len, PERPLEXITY_TOKENS) * job.dtype.itemsize + 2 * LOSS_ROWS * 4
    logits = Term("logits of a sample", rows * job.vocab_size, "for the perplexity that is reported")
    if job.on_cpu:
        return replace(phase, memory=(*phase.memory, logits))
    return replace(phase, vram=(*phase.vram, logits))


def _solver_bytes(layers: tuple[LayerPlan, ...], *, corrected: bool) -> int:
    """Return the largest bytes of a solve; layers of one module with equal inputs (gate and up) are solved together."""
    outputs: dict[tuple[str, int], int] = defaultdict(int)
    for layer in layers:
        outputs[layer.name.rpartition(".")[0], layer.shape[1]] += layer.shape[0]
    squares, weights = (4, 5) if corrected else (3, 4)
    shapes = [(inputs, count) for (_, inputs), count in outputs.items()]
    return max((4 * squares * inputs**2 + 4 * weights * count * inputs for inputs, count in shapes), default=0)


def _group_bytes(job: JobShape, layers: tuple[LayerPlan, ...]) -> int:
    """Return the most bytes of a block with experts, whose groups stay in the journal until the block is stored."""
    blocks: dict[str, int] = defaultdict(int)
    with_experts: set[str] = set()
    for layer in layers:
        block, _, name = layer.name.removeprefix(f"{job.blocks}.").partition(".")
        blocks[block] += layer.disk_bytes
        if is_indexed(name):
            with_experts.add(block)
    return max((blocks[block] for block in with_experts), default=0)


def _operations(layers: tuple[LayerPlan, ...], config: GPTQ, tokens: int) -> tuple[float, float]:
    """Return the operations of forwards and Hessians in the model's type, and of factors and solving in float32."""
    weights = sum(layer.num_weights for layer in layers)
    hessians = sum(float(layer.shape[1]) ** 2 for layer in layers)
    forwards = 1 if config.true_sequential else 2
    factors = sum(float(layer.shape[1]) ** 3 / 3 for layer in layers)
    solves = sum(float(layer.shape[1]) * layer.num_weights for layer in layers)
    # Half of the layers or more share a Hessian with another.
    # Each round of refining multiplies the Hessian and all errors, groups wider than a block twice, and so does
    # measuring what is left.
    products = config.rounds * (1 if 0 < config.group_size <= BLOCK else 2) + 1
    refining = 2 * products * solves if config.rounds else 0.0
    if config.qep_alpha:
        # A second forward, products of two kinds of inputs, and the correction of the weights.
        forwards += 1
        hessians *= 3
        solves *= 3
    return forwards * 2 * tokens * weights + tokens * hessians / 2, factors / 2 + 2 * solves + refining
