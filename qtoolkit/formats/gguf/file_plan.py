"""Plan a `.gguf` file from a model's config, shapes and tokenizer alone, and make the bytes of its tensors."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from qtoolkit.checkpoints.gguf_architectures import Architecture, architecture_of, experts_of, kv_heads_of
from qtoolkit.checkpoints.gguf_places import IN_ORDER, Order, order_of
from qtoolkit.checkpoints.gguf_writing import TensorEntry, Value, gguf_bytes
from qtoolkit.formats.file_of_codes import FilePart
from qtoolkit.formats.gguf.differences import refuse_differences
from qtoolkit.formats.gguf.mixes import MIXES, ModelShape, type_of
from qtoolkit.formats.gguf.model_values import numbers_of
from qtoolkit.formats.gguf.ropes import rope_tensors
from qtoolkit.formats.gguf.tensor_places import Made, tensors_of
from qtoolkit.formats.gguf.vocabulary import further_ends, vocabulary_of
from qtoolkit.tensor.block_types import BLOCK_TYPES, BlockType, quantize_rows

if TYPE_CHECKING:
    from qtoolkit.checkpoints.safetensors import StoredTensor

# The version of the block types, `GGML_QNT_VERSION`.
_QUANTIZATION_VERSION = 2
_BLOCK = re.compile(r"blk\.\d+")
# Buffers of checkpoints that are no weights.
_BUFFERS = ("rotary_emb.inv_freq", ".attn.bias", ".attn.masked_bias")


@dataclass(frozen=True)
class PlannedTensor:
    """One tensor of the file, and how it is made.

    Attributes:
        sources: the tensors of the checkpoint of which it is made, by their names there: one, or one for each expert;
            none for one that is made from the config.
        entry: its line in the file.
        type_: of its blocks.
        order: how it differs from its sources.
        half: which half of a source's rows it takes; None for all.
        values: those of a tensor that is made from the config.
    """

    sources: tuple[str, ...]
    entry: TensorEntry
    type_: BlockType
    order: Order = IN_ORDER
    half: int | None = None
    values: tuple[float, ...] = ()

    def made(self, read: Callable[[str], Tensor], importance: Tensor | None = None) -> Tensor:
        """Return the bytes of the tensor, uint8; its sources are read one after another, never two at a time.

        Args:
            read: returns a tensor of the checkpoint by its name.
            importance: of the inputs, float32 [in] or [experts, in]; None for all alike.
        """
        if not self.sources:
            return torch.tensor(self.values, dtype=torch.float32).view(torch.uint8)
        if len(self.sources) == 1:
            return self.packed(read(self.sources[0]), importance)
        return self._stacked(lambda index: read(self.sources[index]), len(self.sources), importance)

    def packed(self, weight: Tensor, importance: Tensor | None = None) -> Tensor:
        """Return the bytes that one source becomes, uint8: all of the tensor, or one expert of it.

        Args:
            weight: the tensor of the checkpoint; of a stack of experts, one after another is packed.
            importance: of the inputs, float32 [in], or [experts, in] for a stack of experts; None for all alike.
        """
        if weight.dim() == 3:
            return self._stacked(weight.__getitem__, len(weight), importance)
        if self.order.transposed:
            weight = weight.T.contiguous()
        if self.half is not None:
            weight = weight.chunk(2)[self.half]
        if self.order.heads:
            weight = interleaved(weight, self.order.heads)
        if self.order.shift:
            weight = weight.float() + self.order.shift
        return quantize_rows(weight.reshape(-1, weight.shape[-1]), self.type_, importance)

    def joined(self, blocks: "Mapping[int | None, StoredTensor | Tensor]") -> Tensor:
        """Return the bytes of the tensor from blocks that are made already, uint8.

        Args:
            blocks: of W[out, in], uint8 [out, bytes of a row]: under None, or by the numbers of all experts.
        """
        if None in blocks:
            rows = blocks[None][...]
            return interleaved(rows, self.order.heads) if self.order.heads else rows
        return torch.stack([blocks[number][...] for number in range(len(blocks))])

    def _stacked(self, expert: Callable[[int], Tensor], count: int, importance: Tensor | None) -> Tensor:
        """Return the bytes of all experts, uint8 [experts, bytes]; one at a time is held besides them."""
        out = torch.empty(count, self.entry.nbytes // count, dtype=torch.uint8)
        for index in range(count):
            of_expert = None if importance is None else importance[index]
            out[index].copy_(self.packed(expert(index), of_expert).reshape(-1))
        return out


@dataclass(frozen=True)
class FilePlan:
    """A whole file.

    Attributes:
        values: of its header.
        tensors: in the order in which they are written.
    """

    values: Mapping[str, Value]
    tensors: tuple[PlannedTensor, ...]

    # Kept, since it encodes all tokens of the header.
    @cached_property
    def nbytes(self) -> int:
        """Return the size of the file, to the byte."""
        return gguf_bytes(self.values, self.entries)

    @property
    def entries(self) -> tuple[TensorEntry, ...]:
        """Return the lines on its tensors."""
        return tuple(tensor.entry for tensor in self.tensors)

    def parts(self) -> tuple[FilePart, ...]:
        """Return the tensors of each block, and each of the others by itself."""
        found: dict[str, list[TensorEntry]] = {}
        for entry in self.entries:
            block = _BLOCK.match(entry.name)
            found.setdefault(block[0] if block else entry.name, []).append(entry)
        return tuple(
            FilePart(name, tuple(entry.name for entry in entries), sum(entry.nbytes for entry in entries))
            for name, entries in found.items()
        )


def plan_file(
    config: Any,
    shapes: Mapping[str, tuple[int, ...]],
    tokenizer: Any,
    quant_type: str,
    general: Mapping[str, str],
    *,
    importance: bool = False,
) -> FilePlan:
    """Plan a file.

    Args:
        config: transformers' config of the model.
        shapes: of the tensors of the checkpoint, by their names there.
        tokenizer: of the model; None for one without.
        quant_type: a name of `MIXES`.
        general: further texts of the header, such as `general.name`.
        importance: whether the importance of the inputs will be given to `packed`, which changes some types.

    Raises:
        UnsupportedModelError: the architecture, an option of it, a tensor or the tokenizer is not written.
    """
    architecture = architecture_of(config)
    tied = config.tie_word_embeddings or "lm_head.weight" not in shapes
    refuse_differences(config, architecture, tied=tied)
    model = ModelShape(
        layers=config.num_hidden_layers,
        heads=config.num_attention_heads,
        kv_heads=kv_heads_of(config),
        tied=tied,
        architecture=architecture.name,
        experts=experts_of(config) if architecture.experts else 0,
        importance=importance,
    )
    weights = {
        source: shape
        for source, shape in shapes.items()
        if not source.endswith(_BUFFERS) and not (tied and source == "lm_head.weight")
    }
    made = tensors_of(weights, architecture, model.experts)
    values = {
        "general.architecture": Value("string", architecture.name),
        "general.type": Value("string", "model"),
        **{key: Value("string", text) for key, text in general.items()},
        **numbers_of(config, architecture),
        "general.file_type": Value("uint32", MIXES[quant_type].file_type),
        "general.quantization_version": Value("uint32", _QUANTIZATION_VERSION),
        **vocabulary_of(tokenizer, config.vocab_size),
        **further_ends(tokenizer, config.eos_token_id),
    }
    planned = (_planned(tensor, quant_type, architecture, model) for tensor in made)
    return FilePlan(values, (*_rope_tensors(config), *planned))


def interleaved(weight: Tensor, heads: int) -> Tensor:
    """Return rows [0, 1, ..., 2n) of each head as [0, n, 1, n + 1, ...], as llama.cpp's rope of Llama turns them."""
    halves = weight.reshape(heads, 2, -1, *weight.shape[1:])  # [rows, in] -> [heads, 2, n, in]
    return halves.swapaxes(1, 2).reshape(weight.shape)


def _planned(tensor: Made, quant_type: str, architecture: Architecture, model: ModelShape) -> PlannedTensor:
    name = tensor.name
    type_ = type_of(name, tensor.shape, quant_type, model)
    return PlannedTensor(
        tensor.sources,
        _entry(name, tensor.shape, type_),
        type_,
        order=order_of(name, architecture, heads=model.heads, kv_heads=model.kv_heads),
        half=tensor.half,
    )


def _rope_tensors(config: Any) -> list[PlannedTensor]:
    """Return the tensors of factors that llama.cpp wants of some ropes."""
    type_ = BLOCK_TYPES["F32"]
    return [
        PlannedTensor((), _entry(name, (len(factors),), type_), type_, values=factors)
        for name, factors in rope_tensors(config).items()
    ]


def _entry(name: str, shape: tuple[int, ...], type_: BlockType) -> TensorEntry:
    return TensorEntry(name, shape, type_.number, prod(shape) // type_.block_size * type_.block_bytes)
