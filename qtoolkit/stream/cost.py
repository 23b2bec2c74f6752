"""What it takes to read weights, to hold them and to quantize them: the terms of which phases are planned."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch

from qtoolkit.measure.malloc import GIVE_BACK_EVERY
from qtoolkit.records import LayerPlan, PhasePlan, Speed, Term
from qtoolkit.texts.self_calibration import CPU_MEMORY

# A time is at least what products and bytes take at full speed; measured jobs take up to 5 times that.
SLOWEST = 5.0
# Seconds that no job undercuts: checks, configs, the tokenizer.
_FIXED_SECONDS = 1.0


@dataclass(frozen=True)
class Work:
    """A job as a method plans it.

    Attributes:
        base: what is resident in main memory before the weights come.
        layers: the modules that will be quantized.
        skipped: the modules that stay as they are.
        footprint: bytes of everything that stays in memory.
        weight_bytes: bytes of all weights as they are read.
        expanded: bytes that are held until the result is whole: a `.gguf` file's weights.
        device: "cpu" or "cuda:0".
        dtype: the type that the model computes in.
        hidden_size: of the hidden states.
        vocab_size: of the logits.
        cache_bytes: keys and values of one token in all layers.
        blocks: the name of the list of blocks, "model.layers"; empty where there is none.
        head: the name of the output head; empty where there is none.
        max_seq_len: the most tokens that the model knows; None where it does not say.
        speed: of the machine.
    """

    base: tuple[Term, ...]
    layers: tuple[LayerPlan, ...]
    skipped: tuple[LayerPlan, ...]
    footprint: int
    weight_bytes: int
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

    @property
    def on_cpu(self) -> bool:
        """Return whether the result lives in main memory."""
        return self.device == "cpu"

    def time(self, *, moved: int = 0, touched: int = 0, flops: float = 0.0, flops32: float = 0.0) -> tuple[float, ...]:
        """Shortest and longest seconds of a phase; empty where the machine's speed is not known.

        Args:
            moved: bytes from or to the disk.
            touched: bytes from or to memory.
            flops: floating-point operations in the model's type.
            flops32: floating-point operations in float32.
        """
        speed = self.speed
        rates = ((moved, speed.disk), (touched, speed.memory), (flops, speed.multiply), (flops32, speed.multiply32))
        if any(amount and not rate for amount, rate in rates):
            return ()
        least = sum(amount / rate for amount, rate in rates if amount)
        return least, _FIXED_SECONDS + SLOWEST * least


def weight_phases(work: Work) -> tuple[PhasePlan, ...]:
    """Return the one phase of a method that looks at one weight at a time."""
    return (reading_phase(work, "quantize", "largest layer while it is quantized", working_bytes(work.layers)),)


def reading_phase(work: Work, name: str, what: str, working: int) -> PhasePlan:
    """A phase that reads all weights and ends with the result in memory."""
    result = Term("quantized model", work.footprint, "every layer's bytes, scales included")
    layer = Term(what, working, "source weight, float32 copies, result")
    largest = max((layer.bytes_before for layer in (*work.layers, *work.skipped)), default=0)
    waiting = Term("read and not given back yet", GIVE_BACK_EVERY, "freed memory is given back after so much")
    if work.on_cpu:
        memory = [result, layer, waiting]
    else:
        memory = [Term("largest weight on its way to the GPU", largest, "its bytes in the file"), waiting]
    if work.expanded:
        done = work.footprint if work.on_cpu else 0
        memory.append(Term("the .gguf file, expanded", max(0, work.expanded - done), "in bfloat16, less what is done"))
    touched = 4 * work.weight_bytes + work.footprint
    return PhasePlan(
        name,
        (*work.base, *memory),
        () if work.on_cpu else (result, layer),
        bytes_moved=work.weight_bytes,
        seconds=work.time(moved=work.weight_bytes, touched=touched),
    )


def working_bytes(layers: Iterable[LayerPlan]) -> int:
    """Return the most that is in use at one time while a layer is quantized, beside what stays."""
    return max((layer.working_bytes - layer.bytes_after for layer in layers), default=0)


def on_device(work: Work, name: str, terms: tuple[Term, ...], in_memory: tuple[Term, ...]) -> PhasePlan:
    """A phase whose terms are in main memory on the CPU, and in the GPU's on a GPU, beside what stays in memory."""
    if work.on_cpu:
        return PhasePlan(name, (*work.base, *terms))
    return PhasePlan(name, (*work.base, *in_memory), tuple(term for term in terms if term not in in_memory))


def writing_phase(work: Work, num_samples: int, seq_len: int, wider: float) -> PhasePlan:
    """Return the model as it is, writing its own text: as many samples at one time as `CPU_MEMORY` holds."""
    whole = Term("the model in full precision", round(work.weight_bytes * wider), "in the type that it computes in")
    each = round(work.cache_bytes * seq_len * wider) + 3 * 4 * work.vocab_size
    kept = min(num_samples * each, max(each, CPU_MEMORY))
    limit = "at most 2 GiB; a quarter of a GPU's memory, or less, on a GPU"
    phase = on_device(work, "calibrate", (whole, Term("keys, values and logits", kept, limit)), ())
    # Every token reads every weight.
    rounds = -(-num_samples * each // max(kept, 1))
    return replace(
        phase, bytes_moved=work.weight_bytes, seconds=work.time(touched=rounds * seq_len * work.weight_bytes)
    )


def weights_by_block(work: Work) -> tuple[dict[str, int], int]:
    """Bytes of each block, and of everything else but the output head."""
    in_blocks: dict[str, int] = defaultdict(int)
    outside = 0
    prefix = f"{work.blocks}."
    for layer in (*work.layers, *work.skipped):
        if layer.name.startswith(prefix):
            in_blocks[layer.name.removeprefix(prefix).split(".")[0]] += layer.bytes_before
        elif layer.name != work.head:
            outside += layer.bytes_before
    return in_blocks, outside
