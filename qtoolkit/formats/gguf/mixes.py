"""Choose the type of each tensor as llama.cpp's quantizer does (`llama-quant.cpp`, `llama_tensor_get_type`)."""

from dataclasses import dataclass

from qtoolkit.tensor.block_types import BLOCK_TYPES, BlockType


@dataclass(frozen=True)
class Mix:
    """A choice of types under one name.

    Attributes:
        base: the type of most tensors.
        file_type: its number in a file's header, `enum llama_ftype`.
    """

    base: str
    file_type: int


MIXES = {
    "F16": Mix("F16", 1),
    "BF16": Mix("BF16", 32),
    "Q8_0": Mix("Q8_0", 7),
    "Q6_K": Mix("Q6_K", 18),
    "Q5_K_M": Mix("Q5_K", 17),
    "Q5_1": Mix("Q5_1", 9),
    "Q5_0": Mix("Q5_0", 8),
    "Q4_K_M": Mix("Q4_K", 15),
    "Q4_K_S": Mix("Q4_K", 14),
    "Q4_1": Mix("Q4_1", 3),
    "IQ4_NL": Mix("IQ4_NL", 25),
    "IQ4_XS": Mix("IQ4_XS", 30),
    "Q4_0": Mix("Q4_0", 2),
    "Q3_K_M": Mix("Q3_K", 12),
    "Q2_K": Mix("Q2_K", 10),
}
# What takes the place of a K-quant whose 256 weights do not divide the rows.
_FALLBACKS = {"Q2_K": "Q4_0", "Q3_K": "Q4_0", "Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0", "IQ4_XS": "IQ4_NL"}
# What llama.cpp takes for its model of 70 billion weights by the number of its layers.
_LAYERS_OF_70B = {"llama": 80, "qwen2": 80}
# Tensors that llama.cpp keeps as they are, since they are small.
_KEPT = ("ffn_gate_inp.weight", "ffn_gate_inp_shexp.weight", "position_embd.weight")
# The attention of a model with so many experts, as Mixtral, is small beside these, and gets more bits.
_EXPERTS_OF_MIXTRAL = 8
_RAISED_IN_MIXTRAL = ("Q2_K", "Q3_K_M", "Q4_K_S", "Q4_K_M", "IQ4_NL", "IQ4_XS")
# What the first weights that end a block become where importance is known, and where it is not.
_FIRST_DOWN = {
    True: {"Q4_0": "Q4_1", "Q5_0": "Q5_1"},
    False: {"IQ4_NL": "Q5_K", "IQ4_XS": "Q5_K"},
}


@dataclass(frozen=True)
class ModelShape:
    """What the choice of types looks at.

    Attributes:
        layers: number of blocks.
        heads, kv_heads: of the attention.
        tied: whether the output shares the weight of the token embedding.
        architecture: llama.cpp's name of it.
        experts: of a layer; 0 for a model without.
        importance: whether the importance of its inputs is known (an imatrix).
    """

    layers: int
    heads: int
    kv_heads: int
    tied: bool
    architecture: str
    experts: int = 0
    importance: bool = False


def type_of(name: str, shape: tuple[int, ...], quant_type: str, model: ModelShape) -> BlockType:
    """Return the type of a tensor.

    Args:
        name: as llama.cpp calls it, "blk.0.attn_v.weight".
        shape: as torch has it; vectors and norms stay float32.
        quant_type: a name of `MIXES`.
        model: of which it is a tensor.
    """
    if is_kept(name, shape):
        return BLOCK_TYPES["F32"]
    base = MIXES[quant_type].base
    columns = shape[-1]
    if BLOCK_TYPES[base].block_size == 1:
        return BLOCK_TYPES[base]
    if name == "output.weight" or (model.tied and name == "token_embd.weight"):
        chosen = "Q8_0" if base == "Q8_0" or columns % BLOCK_TYPES[base].block_size else "Q6_K"
    else:
        chosen = _in_block(name, quant_type, model) or base
    return fitting(chosen, columns)


def is_kept(name: str, shape: tuple[int, ...]) -> bool:
    """Check whether a tensor stays in float32, whatever types others get; arguments as for `type_of`."""
    return len(shape) < 2 or name.endswith(("_norm.weight", *_KEPT))


def fitting(name: str, columns: int) -> BlockType:
    """Return the type of this name, or what takes its place where its blocks do not divide rows of so many weights."""
    if columns % BLOCK_TYPES[name].block_size:
        name = _FALLBACKS.get(name, "F16")
    if columns % BLOCK_TYPES[name].block_size:
        name = "F16"
    return BLOCK_TYPES[name]


def _in_block(name: str, quant_type: str, model: ModelShape) -> str | None:
    """Return the type of a tensor that the mix treats apart; None for its base."""
    _, number, *rest = (*name.split("."), "", "")
    kind = rest[0]
    if not number.isdecimal():
        return None
    layer = int(number)
    more = _gets_more(layer, model.layers)
    mixtral = model.experts == _EXPERTS_OF_MIXTRAL
    if mixtral and kind in ("attn_k", "attn_v"):
        return "Q8_0"
    if kind in ("attn_v", "attn_qkv"):
        return _value_type(layer, quant_type, model, more=more)
    if kind == "attn_output":
        if mixtral:
            return "Q5_K" if quant_type in _RAISED_IN_MIXTRAL else None
        return {"Q2_K": "Q3_K", "Q3_K_M": "Q4_K"}.get(quant_type)
    return _down_type(layer, quant_type, model, more=more) if kind.startswith("ffn_down") else None


def _down_type(layer: int, quant_type: str, model: ModelShape, *, more: bool) -> str | None:
    """Return the type of the weight that ends a block, to which errors are most costly."""
    if quant_type == "Q3_K_M":
        return "Q5_K" if layer < model.layers // 16 else "Q4_K"
    if layer < model.layers // 8:
        chosen = "Q5_K" if quant_type == "Q4_K_S" else _FIRST_DOWN[model.importance].get(quant_type)
        if chosen is not None:
            return chosen
    if quant_type in ("Q4_K_M", "Q5_K_M") and more:
        return "Q6_K"
    return "Q3_K" if quant_type == "Q2_K" else None


def _value_type(layer: int, quant_type: str, model: ModelShape, *, more: bool) -> str | None:
    """Return the type of the weight of the attention's values, which is small where heads share it."""
    chosen = None
    if quant_type == "Q2_K":
        chosen = "Q4_K" if model.heads // model.kv_heads >= 4 else "Q3_K"
    elif quant_type in ("IQ4_NL", "IQ4_XS"):
        chosen = "Q5_K" if model.heads // model.kv_heads >= 4 else None
    elif quant_type == "Q3_K_M":
        chosen = "Q5_K" if layer < 2 else "Q4_K"
    elif quant_type in ("Q4_K_M", "Q5_K_M") and more:
        chosen = "Q6_K"
    elif quant_type == "Q4_K_S" and layer < 4:
        chosen = "Q5_K"
    large = model.layers == _LAYERS_OF_70B.get(model.architecture)
    large = large and (model.heads != model.kv_heads or model.architecture != "llama")
    return "Q5_K" if large and (chosen or MIXES[quant_type].base) in ("Q3_K", "Q4_K") else chosen


def _gets_more(layer: int, layers: int) -> bool:
    """Check whether a layer is among those that get more bits: the first and last eighth, and each third between."""
    return layer < layers // 8 or layer >= 7 * layers // 8 or (layer - layers // 8) % 3 == 2
