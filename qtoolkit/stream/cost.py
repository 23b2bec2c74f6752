"""Estimate the memory and time of phases that read, hold and quantize weights."""

from collections import defaultdict
from dataclasses import dataclass, replace

import torch

from qtoolkit.measure.malloc import GIVE_BACK_EVERY
from qtoolkit.records import LayerPlan, PhasePlan, Speed, Term
from qtoolkit.texts.self_calibration import CPU_MEMORY

# The shortest time is that of products and bytes at full speed; measured jobs take up to 5 times as long.
SLOWEST = 5.0
# Seconds that every job takes: checks, configs, the tokenizer.
_FIXED_SECONDS = 1.0


@dataclass(frozen=True)
class JobShape:
    """Describe a job for the estimates of a method.

    Attributes:
        base: what is resident in main memory before weights are read.
        layers: the modules that will be quantized.
        skipped: the modules that will not.
        footprint: bytes of the quantized model in memory.
        weight_bytes: bytes of all weights once they are read.
        read_bytes: bytes of all weights in their files, fewer where they are stored as FP8 or MXFP4.
        expanded: bytes of a `.gguf` file's expanded weights, held until the result is complete; 0 for other files.
        device: "cpu" or "cuda:0".
        dtype: the type that the model computes in.
        hidden_size: width of the hidden states.
        vocab_size: width of the logits.
        cache_bytes: keys and values of one token in all layers.
        blocks: the name of the list of blocks, "model.layers"; empty if there is none.
        head: the name of the output head; empty if there is none.
        beside_text: the names of the parts that lie outside the language model, "model.vision_tower".
        max_seq_len: the most tokens that the model supports; None if its config does not say.
        speed: of the machine.
        reads_text: whether the process reads the calibration text; a worker gets its tokens alone.
        vram: free bytes of the job's GPU; None on the CPU, and where no machine is known.
    """

    base: tuple[Term, ...]
    layers: tuple[LayerPlan, ...]
    skipped: tuple[LayerPlan, ...]
    footprint: int
    weight_bytes: int
    read_bytes: int
    expanded: int
    device: str
    dtype: torch.dtype
    hidden_size: int
    vocab_size: int
    cache_bytes: int
    blocks: str
    head: str
    max_seq_len: int | None
    speed: Speed
    beside_text: tuple[str, ...] = ()
    reads_text: bool = True
    vram: int | None = None

    @property
    def on_cpu(self) -> bool:
        """Check whether the result is in main memory, not on a GPU."""
        return self.device == "cpu"

    @property
    def result(self) -> Term:
        """Return the memory of the quantized model."""
        return Term("quantized model", self.footprint, "every layer's bytes, scales included")

    def time(self, *, moved: int = 0, touched: int = 0, flops: float = 0.0, flops32: float = 0.0) -> tuple[float, ...]:
        """Return the shortest and longest seconds of a phase; empty if the machine's speed is not known.

        Args:
            moved: bytes read from or written to the disk.
            touched: bytes read from or written to memory.
            flops: floating-point operations in the model's type.
            flops32: floating-point operations in float32.
        """
        speed = self.speed
        rates = ((moved, speed.disk), (touched, speed.memory), (flops, speed.multiply), (flops32, speed.multiply32))
        if any(amount and not rate for amount, rate in rates):
            return ()
        least = sum(amount / rate for amount, rate in rates if amount)
        return least, _FIXED_SECONDS + SLOWEST * least


def reading_phase(job: JobShape, name: str, what: str, working: int) -> PhasePlan:
    """Return a phase that reads all weights and ends with the result in memory.

    Args:
        job: the job.
        name: of the phase.
        what: names the working memory in the plan.
        working: bytes of working memory.
    """
    layer = Term(what, working, "source weight, float32 copies, result")
    largest = max((layer.bytes_before for layer in (*job.layers, *job.skipped)), default=0)
    waiting = Term("read and not given back yet", GIVE_BACK_EVERY, "freed memory is given back after so much")
    if job.on_cpu:
        memory = [job.result, layer, waiting]
    else:
        memory = [Term("largest weight on its way to the GPU", largest, "its bytes in the file"), waiting]
    if job.expanded:
        done = job.footprint if job.on_cpu else 0
        memory.append(Term("the .gguf file, expanded", max(0, job.expanded - done), "in bfloat16, less what is done"))
    touched = 4 * job.weight_bytes + job.footprint
    return PhasePlan(
        name,
        (*job.base, *memory),
        () if job.on_cpu else (job.result, layer),
        bytes_moved=job.read_bytes,
        seconds=job.time(moved=job.read_bytes, touched=touched),
    )


def loading_phase(job: JobShape) -> PhasePlan:
    """Return the phase that reads a quantized checkpoint, each layer for a moment both as stored and as packed."""
    layouts = max((layer.bytes_after for layer in job.layers), default=0)
    return reading_phase(job, "load", "a layer in two layouts", layouts)


def on_device(job: JobShape, name: str, terms: tuple[Term, ...], in_memory: tuple[Term, ...]) -> PhasePlan:
    """Return a phase with its terms in RAM, or in VRAM if the job runs on a GPU; `in_memory` terms stay in RAM."""
    if job.on_cpu:
        return PhasePlan(name, (*job.base, *terms))
    return PhasePlan(name, (*job.base, *in_memory), tuple(term for term in terms if term not in in_memory))


def writing_phase(job: JobShape, num_samples: int, seq_len: int, wider: float) -> PhasePlan:
    """Return a phase in which the original model generates text, as many samples at one time as `CPU_MEMORY` holds.

    Args:
        job: the job.
        num_samples: number of samples.
        seq_len: tokens of each sample.
        wider: bytes of the type that the model computes in, divided by those of its stored type.
    """
    model = Term("the model in full precision", round(job.weight_bytes * wider), "in the type that it computes in")
    each = round(job.cache_bytes * seq_len * wider) + 3 * 4 * job.vocab_size
    cache = min(num_samples * each, max(each, CPU_MEMORY))
    limit = "at most 2 GiB; a quarter of a GPU's memory, or less, on a GPU"
    phase = on_device(job, "calibrate", (model, Term("keys, values and logits", cache, limit)), ())
    # Every token reads every weight.
    rounds = -(-num_samples * each // max(cache, 1))
    return replace(phase, bytes_moved=job.read_bytes, seconds=job.time(touched=rounds * seq_len * job.weight_bytes))


def weights_by_block(job: JobShape) -> tuple[dict[str, int], int]:
    """Return the bytes of each block, and those of everything else that text needs except the output head."""
    in_blocks: dict[str, int] = defaultdict(int)
    outside = 0
    prefix = f"{job.blocks}."
    beside = tuple(f"{part}." for part in job.beside_text)
    for layer in (*job.layers, *job.skipped):
        if layer.name.startswith(prefix):
            in_blocks[layer.name.removeprefix(prefix).split(".")[0]] += layer.bytes_before
        elif layer.name != job.head and not f"{layer.name}.".startswith(beside):
            outside += layer.bytes_before
    return in_blocks, outside
