"""Plan a `.gguf` file from a model's config, shapes and tokenizer alone, and make the bytes of its tensors."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor

from qtoolkit.checkpoints.gguf_writing import TensorEntry, Value, gguf_bytes
from qtoolkit.errors import UnsupportedModelError
from qtoolkit.formats.gguf.architectures import (
    Architecture,
    architecture_of,
    numbers_of,
    rope_factors,
    tensor_name,
)
from qtoolkit.formats.gguf.mixes import MIXES, ModelShape, type_of
from qtoolkit.formats.gguf.vocabulary import vocabulary_of
from qtoolkit.tensor.block_types import BLOCK_TYPES, BlockType, quantize_rows

# The version of the block types, `GGML_QNT_VERSION`.
_QUANTIZATION_VERSION = 2
_ROPE_FACTORS = "rope_freqs.weight"


@dataclass(frozen=True)
class PlannedTensor:
    """One tensor of the file, and how it is made.

    Attributes:
        source: the tensor's name in the checkpoint; empty for one that is made from the config.
        entry: its line in the file.
        type_: of its blocks.
        heads: into how many heads the rows divide whose halves are interleaved; 0 for rows that stay in order.
        shift: what is added to each value.
    """

    source: str
    entry: TensorEntry
    type_: BlockType
    heads: int = 0
    shift: int = 0

    def packed(self, weight: Tensor) -> Tensor:
        """Return the bytes of the tensor, uint8.

        Args:
            weight: the tensor of the checkpoint.
        """
        if self.heads:
            weight = interleaved(weight, self.heads)
        if self.shift:
            weight = weight.float() + self.shift
        return quantize_rows(weight.reshape(-1, weight.shape[-1]), self.type_)


@dataclass(frozen=True)
class FilePlan:
    """A whole file.

    Attributes:
        values: of its header.
        tensors: in the order in which they are written.
        rope: the values of the tensor of rope factors; None where there is none.
    """

    values: Mapping[str, Value]
    tensors: tuple[PlannedTensor, ...]
    rope: list[float] | None

    @property
    def nbytes(self) -> int:
        """Return the size of the file, to the byte."""
        return gguf_bytes(self.values, self.entries)

    @property
    def entries(self) -> tuple[TensorEntry, ...]:
        """Return the lines on its tensors."""
        return tuple(tensor.entry for tensor in self.tensors)


def plan_file(
    config: Any, shapes: Mapping[str, tuple[int, ...]], tokenizer: Any, quant_type: str, general: Mapping[str, str]
) -> FilePlan:
    """Plan a file.

    Args:
        config: transformers' config of the model.
        shapes: of the tensors of the checkpoint, by their names there.
        tokenizer: of the model; None for one without.
        quant_type: a name of `MIXES`.
        general: further texts of the header, such as `general.name`.

    Raises:
        UnsupportedModelError: the architecture, an option of it, a tensor or the tokenizer is not written.
    """
    architecture = architecture_of(config)
    tied = config.tie_word_embeddings or "lm_head.weight" not in shapes
    model = ModelShape(
        layers=config.num_hidden_layers,
        heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads,
        tied=tied,
        llama=architecture.name == "llama",
    )
    tensors = []
    rope = rope_factors(config)
    if rope is not None:
        tensors.append(PlannedTensor("", _entry(_ROPE_FACTORS, (len(rope),), BLOCK_TYPES["F32"]), BLOCK_TYPES["F32"]))
    for source, shape in shapes.items():
        if source.endswith("rotary_emb.inv_freq") or (tied and source == "lm_head.weight"):
            continue
        tensors.append(_planned(source, shape, quant_type, config, architecture, model))
    values = {
        "general.architecture": Value("string", architecture.name),
        "general.type": Value("string", "model"),
        **{key: Value("string", text) for key, text in general.items()},
        **numbers_of(config, architecture),
        "general.file_type": Value("uint32", MIXES[quant_type].file_type),
        "general.quantization_version": Value("uint32", _QUANTIZATION_VERSION),
        **vocabulary_of(tokenizer, config.vocab_size),
    }
    return FilePlan(values, tuple(tensors), rope)


def interleaved(weight: Tensor, heads: int) -> Tensor:
    """Return rows [0, 1, ..., 2n) of each head as [0, n, 1, n + 1, ...], as llama.cpp's rope of Llama turns them."""
    halves = weight.reshape(heads, 2, -1, *weight.shape[1:])  # [rows, in] -> [heads, 2, n, in]
    return halves.swapaxes(1, 2).reshape(weight.shape)


def _planned(
    source: str,
    shape: tuple[int, ...],
    quant_type: str,
    config: Any,
    architecture: Architecture,
    model: ModelShape,
) -> PlannedTensor:
    name = tensor_name(source, architecture)
    if name is None:
        raise UnsupportedModelError(
            f"no .gguf file is written of this model: llama.cpp's {architecture.name} has no tensor {source!r}"
        )
    type_ = type_of(name, shape, quant_type, model)
    heads = 0
    if architecture.interleaved and ".attn_q." in name:
        heads = config.num_attention_heads
    elif architecture.interleaved and ".attn_k." in name:
        heads = config.num_key_value_heads
    shift = architecture.norm_shift if name.endswith("norm.weight") else 0
    return PlannedTensor(source, _entry(name, shape, type_), type_, heads, shift)


def _entry(name: str, shape: tuple[int, ...], type_: BlockType) -> TensorEntry:
    return TensorEntry(name, shape, type_.number, prod(shape) // type_.block_size * type_.block_bytes)


def rope_bytes(factors: list[float]) -> Tensor:
    """Return the bytes of the tensor of rope factors, float32."""
    return torch.tensor(factors, dtype=torch.float32).view(torch.uint8)
