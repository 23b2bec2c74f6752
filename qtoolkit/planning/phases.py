"""Estimate what each phase of a job takes, from the plans of its layers; each part of a sum has a name and a source."""

import math
import sys
from dataclasses import replace
from typing import Any

from qtoolkit.checkpoints.expanded_tensors import expanding_bytes
from qtoolkit.checkpoints.layer_values import largest
from qtoolkit.formats import Reader
from qtoolkit.methods import Method, MethodConfig, MixedConfig
from qtoolkit.models import structure
from qtoolkit.models.checkpoint import Checkpoint
from qtoolkit.optional import RESIDENT_BYTES
from qtoolkit.records import THIS_MACHINE, LayerPlan, Machine, PhasePlan, Speed, Term
from qtoolkit.requests import DEFAULT_CONTEXT
from qtoolkit.sensitivity import sensitivity_phase, text_of
from qtoolkit.stream.cost import JobShape, on_device, weights_by_block
from qtoolkit.texts.texts import is_self

# Bytes written beside the weights: config, card and receipt; and for each layer its entries in headers and journal.
_SIDE_FILES = 1_000_000
_LAYER_ENTRIES = 2_000
# The tokenizer's file may double, since merges are written as pairs today. For a tokenizer that was given in memory,
# bytes per token: 72 were measured for a vocabulary of 49,152, and 126 for one of 262,144.
_TOKENIZER_GROWS = 2
_TOKEN_BYTES = 150
# Tokens of the forward pass whose logits are stored with a result (`qtoolkit.publishing.behaviour`).
PROBE_TOKENS = 32

# Measured on Linux, x86-64, torch 2.13, transformers 5.23, tokenizers 0.22, bitsandbytes 0.50: resident bytes.
FRESH_PROCESS = 400_000_000
_CUDA_PROCESS = 1_000_000_000
FIRST_USE = 17_000_000
# 20 MB for NF4 and absmax, 23 to 40 for int8, in addition to the other terms.
_FIRST_PRODUCTS = Term("code and buffers of first products", 40_000_000, "measured on SmolLM2-135M")
# Memory as multiples of the size of tokenizer.json, measured for vocabularies of 49,152 and 262,144: once it is loaded,
# at the peak of reading it, and at the peak of writing it.
_TOKENIZER_HELD = 8.2
_TOKENIZER_READ = 14.5
_TOKENIZER_WRITTEN = 2.6


def base_terms(
    checkpoint: Checkpoint, packages: tuple[str, ...], machine: Machine | None, device: str, rss: int
) -> tuple[Term, ...]:
    """Return what is resident in main memory before a weight is read.

    Args:
        checkpoint: the model, its headers read.
        packages: optional packages that the job needs, keys of `qtoolkit.optional.REQUIREMENTS`.
        machine: the machine to plan for; None for a process on this one.
        device: where the result will live.
        rss: resident bytes of this process now.
    """
    on_this_machine = machine is None or machine.name == THIS_MACHINE
    if on_this_machine:
        terms = [Term("this process now", rss, "resident memory when the plan was made")]
    else:
        terms = [Term("a fresh process", FRESH_PROCESS, "with torch and transformers imported, measured on Linux")]
        if device != "cpu":
            terms.append(Term("CUDA in main memory", _CUDA_PROCESS, "assumed, no GPU was there to measure it"))
    for name in packages:
        if name in RESIDENT_BYTES and not (on_this_machine and name in sys.modules):
            terms.append(Term(f"package {name}", RESIDENT_BYTES[name], "measured when it is imported"))
    terms.append(Term("code and buffers of first use", FIRST_USE, "measured: pages of torch's libraries"))
    if checkpoint.stored_as:
        size = expanding_bytes(checkpoint.tensors)
        terms.append(Term("weights while they are expanded", size, f"from {checkpoint.stored_as}, some rows at a time"))
    if checkpoint.tokenizer is None and checkpoint.tokenizer_bytes:
        size = round(_TOKENIZER_HELD * checkpoint.tokenizer_bytes)
        terms.append(Term("tokenizer", size, f"{_TOKENIZER_HELD} times its file, measured on two"))
    return tuple(terms)


def make_job_shape(
    checkpoint: Checkpoint,
    layers: tuple[LayerPlan, ...],
    skipped: tuple[LayerPlan, ...],
    footprint: int,
    device: str,
    base: tuple[Term, ...],
    speed: Speed,
) -> JobShape:
    """Return the facts of a job from which a method estimates its phases."""
    config = checkpoint.config.get_text_config()
    block_list = structure.block_list(checkpoint.skeleton)
    return JobShape(
        base=base,
        layers=layers,
        skipped=skipped,
        footprint=footprint,
        weight_bytes=checkpoint.weight_bytes,
        read_bytes=checkpoint.read_bytes,
        expanded=checkpoint.weight_bytes if checkpoint.expand else 0,
        device=device,
        dtype=checkpoint.dtype,
        hidden_size=largest(config, "hidden_size"),
        vocab_size=largest(config, "vocab_size"),
        cache_bytes=2 * math.prod(_cache_shape(config)) * checkpoint.dtype.itemsize,
        blocks=block_list[0] if block_list else "",
        head=structure.output_head(checkpoint.skeleton) or "",
        max_seq_len=largest(config, "max_position_embeddings"),
        speed=speed,
        beside_text=tuple(sorted(set(structure.parts_beside_text(checkpoint.skeleton).values()))),
    )


def job_phases(
    checkpoint: Checkpoint, method: Method | Reader, config: MethodConfig, job: JobShape, disk_after: int, measures: int
) -> tuple[PhasePlan, ...]:
    """Return every phase of a job, from the download to the saved result; `measures` is that of `plan_job`."""
    phases = []
    if checkpoint.download_bytes:
        size = checkpoint.download_bytes
        network = job.speed.network
        times = (size / network, 5 * size / network) if network else ()
        phases.append(PhasePlan("download", job.base[:1], disk=size, bytes_moved=size, seconds=times))
    if checkpoint.tokenizer is None and checkpoint.tokenizer_bytes:
        reading = round(_TOKENIZER_READ * checkpoint.tokenizer_bytes)
        what = f"{_TOKENIZER_READ} times its file at the fullest moment, measured on two"
        others = tuple(term for term in job.base if term.name != "tokenizer")
        phases.append(PhasePlan("load", (*others, Term("tokenizer while it is read", reading, what))))
    if measures:
        assert isinstance(config, MixedConfig)
        writes_text = is_self(text_of(config))
        phases.append(sensitivity_phase(job, measures, writes_text=writes_text, corrects=method.corrects))
    if method.writes_file:
        *before, last = method.phases(job, config)
        writing = _writing_too(checkpoint, job, last, disk_after)
        return (*phases, *before, writing, _streamed_probe_phase(job, disk_after))
    return (*phases, *method.phases(job, config), _probe_phase(job), _save_phase(checkpoint, job, disk_after))


def _writing_too(checkpoint: Checkpoint, job: JobShape, phase: PhasePlan, disk_after: int) -> PhasePlan:
    """Return a phase that writes the result while it quantizes, with what the save takes beside the result's memory."""
    save = _save_phase(checkpoint, job, disk_after)
    return replace(phase, disk=save.disk, bytes_moved=phase.bytes_moved + disk_after)


def _save_phase(checkpoint: Checkpoint, job: JobShape, disk_after: int) -> PhasePlan:
    """Return the phase that writes the result, and the files beside its weights, to the disk."""
    writing = round(_TOKENIZER_WRITTEN * checkpoint.tokenizer_bytes)
    tokenizer = Term("tokenizer while it is written", writing, f"{_TOKENIZER_WRITTEN} times its file, measured")
    every_layer = (*job.layers, *job.skipped)
    largest = max((layer.bytes_after for layer in every_layer), default=0)
    moved = Term("largest tensor on its way to the disk", largest, "its bytes")
    buffers = (_FIRST_PRODUCTS, tokenizer)
    tokenizer_file = _TOKENIZER_GROWS * checkpoint.tokenizer_bytes or _TOKEN_BYTES * job.vocab_size
    return replace(
        on_device(job, "save", (*buffers, job.result), (*buffers, moved)),
        disk=disk_after + _SIDE_FILES + _LAYER_ENTRIES * len(every_layer) + tokenizer_file,
        bytes_moved=disk_after,
        seconds=job.time(moved=disk_after),
    )


def _probe_phase(job: JobShape) -> PhasePlan:
    """Return the phase of the short forward pass whose logits are stored with a saved result."""
    largest = max((layer.num_weights for layer in job.layers), default=0)
    terms = (
        job.result,
        _probe_logits(job),
        Term("largest layer expanded", 4 * largest, "in float32 at most"),
        _FIRST_PRODUCTS,
    )
    return replace(on_device(job, "verify", terms, ()), seconds=job.time(touched=job.footprint + 4 * largest))


def _probe_logits(job: JobShape) -> Term:
    """Return what the logits of the short forward pass take, before and after they are compared."""
    return Term(
        "logits of the probe", 12 * PROBE_TOKENS * job.vocab_size, f"{PROBE_TOKENS} rows, float32, three copies"
    )


def _streamed_probe_phase(job: JobShape, disk_after: int) -> PhasePlan:
    """Return the phase of the short forward pass through a file that was written, whose blocks are read one by one."""
    in_blocks, outside = weights_by_block(job)
    head = sum(module.bytes_before for module in (*job.layers, *job.skipped) if module.name == job.head)
    moments = (
        (Term("largest block, expanded", max(in_blocks.values(), default=0), "in 16 bits, read from the file"),),
        (
            Term("what stands around the blocks", outside + head, "embeddings, norms, output head, in 16 bits"),
            _probe_logits(job),
        ),
    )
    phases = [on_device(job, "verify", (*terms, _FIRST_PRODUCTS), ()) for terms in moments]
    fullest = max(phases, key=lambda phase: (phase.peak_vram, phase.peak_rss))
    return replace(fullest, bytes_moved=disk_after, seconds=job.time(moved=disk_after, touched=job.weight_bytes))


def inference(checkpoint: Checkpoint, job: JobShape, context: int, batch_size: int) -> PhasePlan:
    """Return what generating with the result takes: the model, the KV cache, and one row of logits for each sequence.

    A layer with a sliding window caches no more than the window: `layer_types` and `sliding_window` of the config.

    Example: Llama-2 7B, 32 layers with 32 heads of 128 in 16 bits, caches 2 * 32 * 32 * 128 * 2 bytes a token, 0.5 MB.
    """
    config = checkpoint.config.get_text_config()
    context = min(context, job.max_seq_len or context)
    kinds = getattr(config, "layer_types", None) or ["full_attention"] * config.num_hidden_layers
    window = largest(config, "sliding_window")
    window = window if isinstance(window, int) and window > 0 else context
    cached_of = {"sliding_attention": min(context, window), "linear_attention": 0}
    positions = sum(cached_of.get(kind, context) for kind in kinds)
    cached = job.cache_bytes * positions // max(1, len(kinds)) * batch_size
    shape = "{} layers, {} heads of {}".format(*_cache_shape(config))
    terms = (
        job.result,
        Term("keys and values", cached, f"{batch_size} x {context} tokens, {shape}"),
        Term("logits", 4 * batch_size * job.vocab_size, "one row each, float32"),
    )
    return on_device(job, f"inference with {context} tokens", terms, ())


def memory_to_use(
    checkpoint: Checkpoint, footprint: int, device: str, context: int = DEFAULT_CONTEXT, base: tuple[Term, ...] = ()
) -> int:
    """Return the bytes that generating takes on its device: the model, keys and values, and a row of logits.

    Args:
        checkpoint: the model.
        footprint: bytes of the model as it is used, quantized or not.
        device: where it lives.
        context: tokens to cache; no more than the model reads.
        base: what is resident in main memory before the model is.
    """
    job = make_job_shape(checkpoint, (), (), footprint, device, base, Speed())
    needed = inference(checkpoint, job, context, 1)
    return needed.peak_vram or needed.peak_rss


def _cache_shape(config: Any) -> tuple[int, int, int]:
    """Return layers, heads and head size of the cache of keys and values; no heads without attention (Mamba).

    Where layers differ, each size is that of the largest.
    """
    layers = config.num_hidden_layers
    count = largest(config, "num_attention_heads")
    if not count:
        return layers, 0, 0
    one = getattr(config, "multi_query", False) and not getattr(config, "new_decoder_architecture", False)
    heads = 1 if one else largest(config, "num_key_value_heads") or count
    parts = [largest(config, name) or 0 for name in ("qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")]
    if all(parts):
        # DeepSeek: keys and values differ in size. Half of their sum, since a cache entry counts this size twice.
        return layers, heads, sum(parts) // 2
    return layers, heads, largest(config, "head_dim") or largest(config, "hidden_size") // count
