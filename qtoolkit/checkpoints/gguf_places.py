"""Say where each tensor of a checkpoint lies in a `.gguf` file, and in what order: for who writes and for who reads."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from qtoolkit.checkpoints.gguf_architectures import Architecture
from qtoolkit.checkpoints.gguf_header import TensorPlace
from qtoolkit.checkpoints.gguf_writing import TensorEntry

# The experts of a layer in one tensor, as transformers 5 holds them: [experts, out, in], with gate above up.
_FUSED = re.compile(r"mlp\.experts\.(gate_up_proj|down_proj)(?:\.weight)?")
_EXPERT = re.compile(r"(?:mlp|block_sparse_moe)\.experts\.(\d+)\.(\w+)\.weight")
_EXPERT_NAMES = {
    "gate_proj": "ffn_gate_exps",
    "up_proj": "ffn_up_exps",
    "down_proj": "ffn_down_exps",
    "w1": "ffn_gate_exps",
    "w3": "ffn_up_exps",
    "w2": "ffn_down_exps",
}
# Those that may have a bias in every architecture.
_BIASED = ("attn_q", "attn_k", "attn_v")


@dataclass(frozen=True)
class Place:
    """Where a tensor of a checkpoint goes.

    Attributes:
        name: llama.cpp's name of the tensor, "blk.0.ffn_gate_exps.weight".
        expert: its number in a stack of experts; None for a tensor of its own, or a whole stack.
        half: which half of the rows goes there, 0 or 1; None for all rows.
    """

    name: str
    expert: int | None = None
    half: int | None = None


@dataclass(frozen=True)
class Order:
    """How a tensor of a file differs from the one of a checkpoint of which it is made.

    Attributes:
        heads: into how many heads the rows divide whose halves are interleaved; 0 for rows that stay in order.
        shift: what is added to each value.
        transposed: whether the checkpoint has it as [in, out].
    """

    heads: int = 0
    shift: int = 0
    transposed: bool = False


IN_ORDER = Order()


def places_of(source: str, architecture: Architecture) -> tuple[Place, ...]:
    """Return where a tensor goes; nothing where llama.cpp has no place for it.

    Args:
        source: its name in a checkpoint, "model.layers.0.self_attn.q_proj.weight".
        architecture: of the model.

    Example:
        >>> places_of("model.layers.0.mlp.experts.gate_up_proj", ARCHITECTURES["qwen3_moe"])
        (Place("blk.0.ffn_gate_exps.weight", half=0), Place("blk.0.ffn_up_exps.weight", half=1))
    """
    found = architecture.block.fullmatch(source)
    if not found:
        module, _, kind = source.rpartition(".")
        name = architecture.outside.get(module)
        return (Place(f"{name}.{kind}"),) if name and kind in ("weight", "bias") else ()
    block, rest = f"blk.{found[1]}", found[2]
    if architecture.experts and (stack := _FUSED.fullmatch(rest)):
        if stack[1] == "down_proj":
            return (Place(f"{block}.ffn_down_exps.weight"),)
        return tuple(Place(f"{block}.ffn_{kind}_exps.weight", half=half) for half, kind in enumerate(("gate", "up")))
    if architecture.experts and (one := _EXPERT.fullmatch(rest)):
        name = _EXPERT_NAMES.get(one[2])
        return (Place(f"{block}.{name}.weight", int(one[1])),) if name else ()
    module, _, kind = rest.rpartition(".")
    name = architecture.names.get(module)
    known = kind == "weight" or (kind == "bias" and (architecture.biases or name in _BIASED))
    return (Place(f"{block}.{name}.{kind}"),) if name and known else ()


def order_of(name: str, architecture: Architecture, *, heads: int, kv_heads: int) -> Order:
    """Return in what order a file has a tensor.

    Args:
        name: llama.cpp's name of it.
        architecture: of the model.
        heads: of its queries.
        kv_heads: of its keys.
    """
    own = {".attn_q.": heads, ".attn_k.": kv_heads} if architecture.interleaved else {}
    return Order(
        heads=next((count for part, count in own.items() if part in name), 0),
        shift=architecture.norm_shift if name.endswith("norm.weight") else 0,
        transposed=is_transposed(name, architecture),
    )


def is_transposed(name: str, architecture: Architecture) -> bool:
    """Check whether the checkpoint holds a matrix as [in, out], as GPT-2's Conv1D does."""
    return architecture.transposed and name.startswith("blk.") and name.endswith(".weight") and "norm" not in name


def modules_in(source: str, entry: TensorEntry) -> Iterator[str]:
    """Yield the names of the linear layers that a tensor of the file takes of a tensor of a checkpoint.

    Example:
        >>> [*modules_in("mlp.experts.down_proj", TensorEntry("blk.0.ffn_down_exps.weight", (2, 64, 32), 1, 8192))]
        ["mlp.experts", "mlp.experts.0.down_proj", "mlp.experts.0.w2", "mlp.experts.1.down_proj", "mlp.experts.1.w2"]
    """
    module = source.removesuffix(".weight").rpartition(".")[0] if _FUSED.search(source) else source.rpartition(".")[0]
    yield module
    if _FUSED.search(source):
        parts = [part for part, name in _EXPERT_NAMES.items() if f".{name}." in entry.name]
        yield from (f"{module}.{index}.{part}" for index in range(entry.shape[0]) for part in parts)


def one_share(entry: TensorEntry | TensorPlace, expert: int | None) -> int:
    """Return the bytes that a layer has of a tensor: all of them, or those of one expert."""
    return entry.nbytes if expert is None else entry.nbytes // entry.shape[0]
