"""What each phase of a job takes, from the plans of its layers: every part has a name and a source."""

import math
import sys
from typing import Any

from qtoolkit.formats import Reader
from qtoolkit.methods import Method, MethodConfig
from qtoolkit.models import Checkpoint, structure
from qtoolkit.optional import RESIDENT_BYTES
from qtoolkit.records import THIS_MACHINE, LayerPlan, Machine, PhasePlan, Speed, Term
from qtoolkit.sensitivity import sensitivity_phase
from qtoolkit.stream.cost import JobShape

# What is written beside the weights: config, card and receipt; entries of headers, and of the journal's facts; the
# tokenizer, whose file may double, since merges are written as pairs today, or what one in memory takes a token: 72
# bytes measured for a vocabulary of 49,152, and 126 for one of 262,144.
_SIDE_FILES, _LAYER_ENTRIES, _TOKENIZER_GROWS, _TOKEN_BYTES = 1_000_000, 2_000, 2, 150
# As `qtoolkit.publishing.behaviour` takes them.
PROBE_TOKENS = 32

# Measured on Linux, x86-64, torch 2.13, transformers 5.23, tokenizers 0.22, bitsandbytes 0.50: resident bytes.
_FRESH_PROCESS = 400_000_000
_CUDA_PROCESS = 1_000_000_000
_FIRST_USE = 17_000_000
# 20 MB for NF4 and absmax, 23 to 40 for int8, beyond what the other terms count.
_FIRST_PRODUCTS = Term("code and buffers of first products", 40_000_000, "measured on SmolLM2-135M")
# Of tokenizer.json, for vocabularies of 49,152 and 262,144: held, at the fullest moment of reading, and of writing.
_TOKENIZER_HELD, _TOKENIZER_READ, _TOKENIZER_WRITTEN = 8.2, 14.5, 2.6


def base_terms(
    checkpoint: Checkpoint, packages: tuple[str, ...], machine: Machine | None, device: str, rss: int
) -> tuple[Term, ...]:
    """What is resident in main memory before a weight is read.

    Args:
        checkpoint: headers read.
        packages: those that the job needs, keys of `qtoolkit.optional.REQUIREMENTS`.
        machine: what is planned for; None for a process on this one.
        device: where the result will live.
        rss: bytes that this process has resident now.
    """
    here = machine is None or machine.name == THIS_MACHINE
    terms = []
    if here:
        terms.append(Term("this process now", rss, "resident memory when the plan was made"))
    else:
        terms.append(Term("a fresh process", _FRESH_PROCESS, "with torch and transformers imported, measured on Linux"))
    if not here and device != "cpu":
        terms.append(Term("CUDA in main memory", _CUDA_PROCESS, "assumed, no GPU was there to measure it"))
    missing = [name for name in packages if name in RESIDENT_BYTES and not (here and name in sys.modules)]
    terms.extend(Term(f"package {name}", RESIDENT_BYTES[name], "measured when it is imported") for name in missing)
    terms.append(Term("code and buffers of first use", _FIRST_USE, "measured: pages of torch's libraries"))
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
    """The job as its method plans it."""
    config, model = checkpoint.config.get_text_config(), checkpoint.skeleton
    found = structure.block_list(model)
    return JobShape(
        base=base,
        layers=layers,
        skipped=skipped,
        footprint=footprint,
        weight_bytes=checkpoint.weight_bytes,
        expanded=checkpoint.weight_bytes if checkpoint.format == "gguf" else 0,
        device=device,
        dtype=checkpoint.dtype,
        hidden_size=config.hidden_size,
        vocab_size=config.vocab_size,
        cache_bytes=2 * math.prod(_cache_shape(config)) * checkpoint.dtype.itemsize,
        blocks=found[0] if found else "",
        head=structure.output_head(model) or "",
        max_seq_len=getattr(config, "max_position_embeddings", None),
        speed=speed,
    )


def job_phases(
    checkpoint: Checkpoint, method: Method | Reader, config: MethodConfig, job: JobShape, disk_after: int, measures: int
) -> tuple[PhasePlan, ...]:
    """Every phase of a job, from the download to the saved result; `measures` is that of `make_plan`."""
    base, phases = job.base, []
    if checkpoint.download_bytes:
        size = checkpoint.download_bytes
        network = job.speed.network
        times = (size / network, 5 * size / network) if network else ()
        phases.append(PhasePlan("download", base[:1], disk=size, bytes_moved=size, seconds=times))
    if checkpoint.tokenizer is None and checkpoint.tokenizer_bytes:
        reading = round(_TOKENIZER_READ * checkpoint.tokenizer_bytes)
        what = f"{_TOKENIZER_READ} times its file at the fullest moment, measured on two"
        without = tuple(term for term in base if term.name != "tokenizer")
        phases.append(PhasePlan("load", (*without, Term("tokenizer while it is read", reading, what))))
    if measures:
        writes_text = getattr(config, "calibration", "self") == "self"
        phases.append(sensitivity_phase(job, measures, writes_text=writes_text))
    phases.extend(method.phases(job, config))
    phases.append(_probe_phase(job))
    writing = round(_TOKENIZER_WRITTEN * checkpoint.tokenizer_bytes)
    result = Term("quantized model", job.footprint, "every layer's bytes, scales included")
    tokenizer = Term("tokenizer while it is written", writing, f"{_TOKENIZER_WRITTEN} times its file, measured")
    saved = [_FIRST_PRODUCTS, tokenizer]
    if job.on_cpu:
        saved.append(result)
    else:
        saved.append(Term("largest tensor on its way to the disk", _largest(job), "its bytes"))
    phases.append(
        PhasePlan(
            "save",
            (*base, *saved),
            () if job.on_cpu else (result,),
            disk=disk_after + _beside(checkpoint, job),
            bytes_moved=disk_after,
            seconds=job.time(moved=disk_after),
        )
    )
    return tuple(phases)


def _beside(checkpoint: Checkpoint, job: JobShape) -> int:
    """Bytes on the disk of all that is written beside the weights."""
    if checkpoint.tokenizer_bytes:
        tokenizer = _TOKENIZER_GROWS * checkpoint.tokenizer_bytes
    else:
        tokenizer = _TOKEN_BYTES * job.vocab_size
    return _SIDE_FILES + _LAYER_ENTRIES * (len(job.layers) + len(job.skipped)) + tokenizer


def _probe_phase(job: JobShape) -> PhasePlan:
    """The short forward pass whose logits are written down beside a saved result."""
    largest = max((layer.num_weights for layer in job.layers), default=0)
    result = Term("quantized model", job.footprint, "every layer's bytes, scales included")
    terms = (
        Term("logits of the probe", 12 * PROBE_TOKENS * job.vocab_size, f"{PROBE_TOKENS} rows, float32, three copies"),
        Term("largest layer expanded", 4 * largest, "in float32 at most"),
        _FIRST_PRODUCTS,
    )
    memory, vram = ((result, *terms), ()) if job.on_cpu else ((), (result, *terms))
    return PhasePlan("verify", (*job.base, *memory), vram, seconds=job.time(touched=job.footprint + 4 * largest))


def inference(checkpoint: Checkpoint, job: JobShape, context: int, batch_size: int) -> PhasePlan:
    """What generating with the result takes: the model, the cache of keys and values, one row of logits each.

    A layer that looks back over a window keeps no more than that: `layer_types` and `sliding_window` of the config.

    Example: Llama-2 7B, 32 layers with 32 heads of 128 in 16 bits, keeps 2 * 32 * 32 * 128 * 2 bytes a token, 0.5 MB.
    """
    config = checkpoint.config.get_text_config()
    context = min(context, job.max_seq_len or context)
    kinds = getattr(config, "layer_types", None) or ["full_attention"] * config.num_hidden_layers
    window = getattr(config, "sliding_window", None)
    window = window if isinstance(window, int) and window > 0 else context
    kept_of = {"sliding_attention": min(context, window), "linear_attention": 0}
    positions = sum(kept_of.get(kind, context) for kind in kinds)
    kept = job.cache_bytes * positions // max(1, len(kinds)) * batch_size
    shape = "{} layers, {} heads of {}".format(*_cache_shape(config))
    terms = (
        Term("quantized model", job.footprint, "every layer's bytes, scales included"),
        Term("keys and values", kept, f"{batch_size} x {context} tokens, {shape}"),
        Term("logits", 4 * batch_size * config.vocab_size, "one row each, float32"),
    )
    name = f"inference with {context} tokens"
    return PhasePlan(name, (*job.base, *terms)) if job.on_cpu else PhasePlan(name, job.base, terms)


def memory_to_use(checkpoint: Checkpoint, footprint: int, device: str, context: int = 4096) -> int:
    """Bytes that generating takes beside the process itself: the model, keys and values, and a row of logits.

    Args:
        checkpoint: the model.
        footprint: bytes of the model in the form that is used.
        device: where it lives.
        context: tokens that are kept; no more than the model reads.
    """
    job = make_job_shape(checkpoint, (), (), footprint, device, (), Speed())
    needed = inference(checkpoint, job, context, 1)
    return needed.peak_vram or needed.peak_rss


def _cache_shape(config: Any) -> tuple[int, int, int]:
    """Layers, heads and their size in the cache of keys and values; no heads where there is no attention (Mamba)."""
    count, layers = getattr(config, "num_attention_heads", None), config.num_hidden_layers
    if not count:
        return layers, 0, 0
    one = getattr(config, "multi_query", False) and not getattr(config, "new_decoder_architecture", False)
    heads = 1 if one else getattr(config, "num_key_value_heads", None) or count
    parts = [getattr(config, name, None) or 0 for name in ("qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")]
    if all(parts):
        # DeepSeek: keys and values have sizes of their own; half of their sum, since the cache counts two of it.
        return layers, heads, sum(parts) // 2
    return layers, heads, getattr(config, "head_dim", None) or config.hidden_size // count


def _largest(job: JobShape) -> int:
    return max((layer.bytes_after for layer in (*job.layers, *job.skipped)), default=0)
