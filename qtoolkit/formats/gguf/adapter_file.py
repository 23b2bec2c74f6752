"""Write a LoRA adapter as a `.gguf` file, which llama.cpp adds to a model in a `.gguf` file by `--lora`."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from qtoolkit.checkpoints.gguf_architectures import Architecture, architecture_of, experts_of, kv_heads_of
from qtoolkit.checkpoints.gguf_header import read_gguf
from qtoolkit.checkpoints.gguf_parts import parts_of
from qtoolkit.checkpoints.gguf_places import Place, one_share, order_of, places_of
from qtoolkit.checkpoints.gguf_writing import TensorEntry, Value, write_gguf
from qtoolkit.errors import UnsupportedModelError
from qtoolkit.formats.file_format import LowRankChange
from qtoolkit.formats.gguf.file_plan import interleaved
from qtoolkit.tensor.block_types import BLOCK_TYPES, quantize_rows

# Types of tensors in which nothing is lost.
_FULL_PRECISION = ("F32", "F16", "BF16")


class _Pair(NamedTuple):
    """Hold both matrices of one tensor of the base, as the file has them; of experts, [experts, ...]."""

    name: str
    a: torch.Tensor
    b: torch.Tensor


def write_adapter_file(
    path: Path, changes: Mapping[str, LowRankChange], *, config: Any, name: str, in_8_bits: bool = False
) -> None:
    """Write a file of `general.type` "adapter", with `NAME.lora_a` [rank, in] and `NAME.lora_b` [out, rank].

    llama.cpp multiplies B A with `adapter.lora.alpha` by the rank: where layers are scaled otherwise, it is in B. Rows
    of B are in the order of the base's rows, of queries and keys in pairs. Matrices in float32 stay so, others become
    float16; in 8 bits, those whose rows are whole blocks of 32 become Q8_0.

    Args:
        path: the file, which must not exist.
        changes: by the names of layers, "model.layers.0.self_attn.q_proj"; of a mixture, of all experts or of none.
        config: transformers' config of the base.
        name: of the adapter.
        in_8_bits: whether to write 8 bits.

    Raises:
        UnsupportedModelError: llama.cpp does not know such models, or has no tensor of a layer.
    """
    architecture = architecture_of(config)
    first = next(iter(changes.values()))
    alpha = first.scaling * len(first.a)
    pairs = _pairs(changes, architecture, config, alpha)
    tensors = {
        f"{pair.name}.{part}": matrix for pair in pairs for part, matrix in (("lora_a", pair.a), ("lora_b", pair.b))
    }
    values = {
        "general.architecture": Value("string", architecture.name),
        "general.type": Value("string", "adapter"),
        "general.name": Value("string", name),
        "adapter.type": Value("string", "lora"),
        "adapter.lora.alpha": Value("float32", alpha),
    }
    types = {key: BLOCK_TYPES[_type_name(matrix, in_8_bits=in_8_bits)] for key, matrix in tensors.items()}
    entries = [
        TensorEntry(key, tuple(matrix.shape), types[key].number, types[key].nbytes(tuple(matrix.shape)))
        for key, matrix in tensors.items()
    ]

    def packed(entry: TensorEntry) -> torch.Tensor:
        # [..., rows, columns] -> [rows, columns]
        rows = tensors[entry.name].reshape(-1, entry.shape[-1]).float()
        return quantize_rows(rows, types[entry.name], None)

    for _ in write_gguf(path, values, entries, packed):
        pass


def quantized_layers(file: Path, config: Any, names: Iterable[str]) -> dict[str, int]:
    """Return the bytes of the layers that a file holds quantized, as `FileFormat.quantized_layers`."""
    architecture = architecture_of(config)
    tensors = {name: place for part in parts_of(file) for name, place in read_gguf(part).tensors.items()}
    found = {}
    for layer in names:
        place = _place(layer, architecture)
        stored = tensors.get(place.name)
        if stored is not None and stored.type_.name not in _FULL_PRECISION:
            found[layer] = one_share(stored, place.expert)
    return found


def _type_name(matrix: torch.Tensor, *, in_8_bits: bool) -> str:
    """Return the type in which a matrix is written."""
    if in_8_bits and matrix.shape[-1] % BLOCK_TYPES["Q8_0"].block_size == 0:
        return "Q8_0"
    return "F32" if matrix.dtype == torch.float32 and not in_8_bits else "F16"


def _pairs(changes: Mapping[str, LowRankChange], architecture: Architecture, config: Any, alpha: float) -> list[_Pair]:
    """Return the matrices of each tensor of the base."""
    found: dict[str, dict[int | None, LowRankChange]] = {}
    for layer, change in changes.items():
        place = _place(layer, architecture)
        found.setdefault(place.name, {})[place.expert] = change
    pairs = []
    for name, own in found.items():
        order = order_of(name, architecture, heads=config.num_attention_heads, kv_heads=kv_heads_of(config))
        ranks = {len(change.a) for change in own.values()}
        count = experts_of(config)
        if None not in own and ({*own} != {*range(count)} or len(ranks) > 1):
            raise UnsupportedModelError(
                f"{name} holds {count} experts, and the adapter changes {len(own)} of them with rank "
                f"{' and '.join(map(str, sorted(ranks)))}: llama.cpp takes an adapter of all of them with one rank"
            )
        parts = [own[number] for number in sorted(own, key=lambda number: number or 0)]
        # Of float32 alone, and of 16 bits otherwise, as the matrices were stored.
        dtype = parts[0].b.dtype
        scaled = [(part.b.float() * (part.scaling * len(part.a) / alpha)).to(dtype) for part in parts]
        rows = [interleaved(b, order.heads) if order.heads else b for b in scaled]
        pairs.append(_Pair(name, _stacked([part.a for part in parts], own), _stacked(rows, own)))
    return pairs


def _stacked(matrices: Sequence[torch.Tensor], own: Mapping[int | None, LowRankChange]) -> torch.Tensor:
    """Return one matrix as it is, and those of experts in one tensor [experts, ...]."""
    return matrices[0] if None in own else torch.stack([*matrices])


def _place(layer: str, architecture: Architecture) -> Place:
    """Return where the weight of a layer lies in a file.

    Raises:
        UnsupportedModelError: there is no such tensor, or it holds a part of the layer.
    """
    places = places_of(f"{layer}.weight", architecture)
    if len(places) != 1 or places[0].half is not None:
        raise UnsupportedModelError(
            f"llama.cpp's {architecture.name} has no tensor of {layer}: train an adapter without it"
        )
    return places[0]
