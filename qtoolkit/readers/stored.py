"""Describe how a model is stored, as far as programs ask before they load it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from qtoolkit.matching import Expressions
from qtoolkit.readers.expert_lookups import has_own_experts, hidden_experts, is_expert
from qtoolkit.readers.fused_layers import fused_unit, units_of
from qtoolkit.readers.matrices import BLOCK, Matrix, cut_blocks, matrices_of, named, outside_tiles, within_block
from qtoolkit.readers.whole_units import advice_on_units

# vllm/model_executor/models/gpt_oss.py and dbrx.py, `load_weights`; granitemoe.py finds single experts.
_WHOLE = ("GptOssForCausalLM", "DbrxForCausalLM")
# What inputs are rounded to beside codes of fewer bits than they have.
W4A8 = "8 bits beside smaller codes"
# transformers/models/falcon/modeling_falcon.py, `FalconLinear`.
_OWN_LINEAR = ("FalconForCausalLM",)
# What chooses the experts of a token.
_ROUTERS = ("gate", "router", "shared_expert_gate")


@dataclass(frozen=True, kw_only=True)
class Stored:
    """How the codes of a model are stored.

    Attributes:
        format: name of the format, "gptq"; empty for a model in full precision.
        layout: what the format calls the way that it packs codes, "gptq_v2" or "pack-quantized"; empty where it has
            one alone.
        bits: sizes of the codes of its layers, sorted, each once.
        group_sizes: inputs that share a scale, sorted, each once; -1 for all inputs of an output.
        input_type: what inputs are rounded to, "float8" or "int8", or "float4" of weights that are such floats, or
            `W4A8`; empty where inputs are not rounded.
        sym: whether zero points are in the middle of the codes.
        desc_act: whether groups were formed in order of activation.
        embeddings: bits of the token embedding; None where it is not quantized.
        dtype: type of what is not quantized, "bfloat16"; empty where it is not known.
        expands: whether its config asks transformers to expand the codes while it loads.
        mixed_units: fused matrices of servers whose layers are stored in different ways, by their names.
        whole: what would make these whole, in words.
        architecture: class of the model, "LlamaForCausalLM"; empty where it is not known.
        experts: architecture of a model whose experts are quantized one by one, "MixtralForCausalLM"; empty for none,
            and where it is not known.
        split_experts: the same of an architecture whose checkpoints keep all experts of a block in one tensor, and
            whose class in servers looks for no others.
        hidden_experts: whether SGLang does not find what a config of schemes says of experts, since it asks for others.
        own_experts: whether experts are stored in another way than the options of the whole model say.
        own_linear: the same of an architecture whose linear layers are of a class of their own.
        plain_experts: whether its experts are stored one by one in full precision, beside quantized layers.
        misnamed_units: those whose layers the config names one by one, where servers look for the fused name.
        left: layers of blocks that are not quantized, by their full names; routers of experts aside, which never are.
        matrices: what servers multiply with, each a quantized layer or some that they join; empty for unknown sizes.
        heads: heads of queries, and of keys and values; empty where they are not known.
        given_values: layers whose weight the model's class gives first values to as it is opened, by their full names.
    """

    format: str
    layout: str = ""
    bits: tuple[int, ...] = ()
    group_sizes: tuple[int, ...] = ()
    input_type: str = ""
    sym: bool = True
    desc_act: bool = False
    embeddings: int | None = None
    dtype: str = ""
    expands: bool = False
    mixed_units: tuple[str, ...] = ()
    whole: str = ""
    misnamed_units: tuple[str, ...] = ()
    left: tuple[str, ...] = ()
    architecture: str = ""
    experts: str = ""
    plain_experts: bool = False
    hidden_experts: bool = False
    own_experts: bool = False
    own_linear: str = ""
    split_experts: str = ""
    matrices: tuple[Matrix, ...] = ()
    heads: tuple[int, ...] = ()
    given_values: tuple[str, ...] = ()

    @property
    def layers_given_values(self) -> tuple[str, ...]:
        """Return the layers whose weight gets first values, by the ends of their names."""
        return named(".".join(name.split(".")[-2:]) for name in self.given_values)

    @property
    def outside_tiles(self) -> tuple[str, ...]:
        """Return the matrices of sizes that the kernel Marlin does not take, in words."""
        return outside_tiles(self.matrices)

    @property
    def is_filled_up(self) -> bool:
        """Return whether Marlin takes some matrices filled up alone, and no other kernel does: those take float16."""
        return bool(self.outside_tiles) and self.dtype != "float16"

    @property
    def cut_blocks(self) -> tuple[str, ...]:
        """Return the matrices in which one block of weights belongs to two layers, in words; none without blocks."""
        return cut_blocks(self.matrices) if BLOCK in self.group_sizes else ()

    @property
    def unlike_units(self) -> tuple[str, ...]:
        """Return the fused matrices whose layers are stored in different ways, each within its block once."""
        return named(map(within_block, self.mixed_units))

    @property
    def small_groups(self) -> tuple[int, ...]:
        """Return the sizes of groups below 32."""
        return tuple(size for size in self.group_sizes if 0 < size < 32)

    @property
    def widths(self) -> int:
        """Return how many sizes of a code the layers have."""
        return len(self.bits)

    @property
    def bits_with_zero_points(self) -> tuple[int, ...]:
        """Return the sizes of codes that have zero points beside them; none where all are in the middle."""
        return () if self.sym else self.bits

    @property
    def packs_zero_points(self) -> bool:
        """Return whether transformers is left to unpack zero points while it computes.

        False beside quantized embeddings, which it does not take in any way.
        """
        return not self.sym and not self.expands and self.embeddings is None


def describe_stored(
    stored_as: str,
    options: Mapping[str, Any],
    layers: Mapping[str, int],
    left: Iterable[str] = (),
    *,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    groups: Mapping[str, int | None] | None = None,
    sym: bool = True,
    input_type: str = "",
    dtype: str = "",
    values: Mapping[str, Any] | None = None,
    architecture: str = "",
    heads: tuple[int, ...] = (),
) -> Stored:
    """Return how a model is stored, from the options of the config that it was or will be quantized with.

    Args:
        stored_as: name of the format.
        options: fields of the method's config: `bits`, `group_size`, `sym`, `desc_act`, `granularity`, `embeddings`,
            `checkpoint_format`, as far as it has them.
        layers: bits of the quantized layers by their full names; empty where they are not known.
        left: full names of modules that are not quantized.
        shapes: [outputs, inputs] of layers by their full names, those of `layers` among them; None where not known.
        groups: inputs that share a scale in each of `layers`, as `group_size_of`; None where all have those of the
            options.
        sym: whether codes are symmetric, for a method whose options do not say.
        input_type: what inputs are rounded to, as in `Stored`, before there are `values`.
        dtype: type of what is not quantized.
        values: the `quantization_config`; None before there is one.
        architecture: class of the model; empty where it is not known.
        heads: heads of queries, and of keys and values; empty where they are not known.
    """
    left = tuple(left)
    in_blocks = {name: bits for name, bits in layers.items() if any(part.isdigit() for part in name.split("."))}
    rules = (options.get("rules") or {}).values()
    bits: set[Any] = {*in_blocks.values()} or {own.get("bits", options.get("bits")) for own in (options, *rules)}
    sizes = groups or {}
    group_size = group_size_of(options)
    own_sizes = {sizes.get(name, group_size) for name in in_blocks} or {group_size}
    is_sym = bool(options.get("sym", sym))
    described = {} if values is None else values
    embeddings = options.get("embeddings")
    recipes: dict[str, Any] = {name: None for name in left if fused_unit(name) != name}
    recipes |= {name: (own, sizes.get(name, group_size)) for name, own in in_blocks.items()}
    # It is never written beside quantized embeddings, which transformers would expand wrongly.
    expands = not is_sym and embeddings is None if values is None else values.get("run_compressed") is False
    return Stored(
        format=stored_as,
        layout=_layout(described) if values is not None else str(options.get("checkpoint_format") or ""),
        bits=tuple(sorted(one for one in bits if isinstance(one, int) and one)),
        group_sizes=tuple(sorted(one for one in own_sizes if one is not None)),
        input_type=_input_type(described) or input_type,
        sym=is_sym,
        desc_act=bool(options.get("desc_act")) and group_size != -1,
        embeddings=embeddings,
        dtype=dtype,
        expands=expands,
        mixed_units=mixed_units(recipes),
        whole=advice_on_units(recipes),
        misnamed_units=misnamed_units(in_blocks, described),
        left=tuple(sorted(name for name in left if name not in layers and _is_usual(name))) if in_blocks else (),
        architecture=architecture,
        experts=architecture if any(map(is_expert, layers)) else "",
        split_experts=architecture if architecture in _WHOLE and any(map(is_expert, layers)) else "",
        hidden_experts=bool(layers) and hidden_experts(recipes, values),
        own_experts=has_own_experts(recipes, (options.get("bits"), group_size)),
        plain_experts=bool(layers) and any(map(is_expert, left)),
        own_linear=architecture if architecture in _OWN_LINEAR and in_blocks else "",
        matrices=matrices_of({name: shape for name, shape in (shapes or {}).items() if name in in_blocks}),
        heads=heads,
    )


def group_size_of(options: Mapping[str, Any]) -> int | None:
    """Return how many inputs share a scale by the options of a config: -1 for all; None where they do not say."""
    granularity = options.get("granularity")
    size = (
        -1 if granularity in ("tensor", "channel") else BLOCK if granularity == "block" else options.get("group_size")
    )
    return size if isinstance(size, int) else None


def _is_usual(name: str) -> bool:
    """Return whether programs would take a layer for a quantized one unless told: one of a block, and not a router."""
    *_, last = parts = name.split(".")
    return any(part.isdigit() for part in parts) and last not in _ROUTERS


def _layout(values: Mapping[str, Any]) -> str:
    """Return what a format calls the way that it packs codes, by a `quantization_config`."""
    keys = ("packing_format", "quant_algo", "checkpoint_format", "format")
    named = next((values[key] for key in keys if values.get(key)), "")
    # Some programs call it so; others write the number of their own version.
    version = str(values.get("version") or "").lower()
    return str(named) or (version if version.isidentifier() else "")


def _input_type(values: Mapping[str, Any]) -> str:
    """Return what inputs are rounded to, by the first scheme of a `quantization_config`; empty where they are not."""
    groups = values.get("config_groups")
    first = next(iter(groups.values()), None) if isinstance(groups, dict) else None
    scheme = first if isinstance(first, dict) else {}
    parts = (scheme.get(key) for key in ("weights", "input_activations"))
    weights, inputs = (part if isinstance(part, dict) else {} for part in parts)
    if (weights.get("type"), weights.get("num_bits")) == ("float", 4):
        return "float4"
    rounded = {"float": "float8", "int": "int8"}.get(str(inputs.get("type")), "")
    return W4A8 if rounded and weights.get("num_bits", 8) != 8 else rounded


def mixed_units(recipes: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the fused matrices whose layers are stored in different ways, or of which some are not quantized.

    Args:
        recipes: how each layer is stored, by its full name: anything that can be compared, None where it is not
            quantized.
    """
    units = units_of(recipes)
    return tuple(sorted(unit for unit, members in units.items() if len({recipes[name] for name in members}) > 1))


def misnamed_units(layers: Mapping[str, int], values: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the fused matrices to which `dynamic` gives other bits than to their layers.

    Servers look up "qkv_proj" in `dynamic`, where the patterns may name "q_proj" alone (vLLM 0.33.0,
    quantization/utils/gptq_utils.py, `get_dynamic_override`).
    """
    dynamic = values.get("dynamic")
    if not isinstance(dynamic, dict):
        return ()
    found = []
    first = Expressions(pattern.removeprefix("-:").removeprefix("+:") for pattern in dynamic).first
    # What a server gives to the layers of each pattern: no bits where they are not quantized.
    given = [
        0 if pattern.startswith("-:") else (own if isinstance(own, dict) else {}).get("bits", values.get("bits"))
        for pattern, own in dynamic.items()
    ]
    for unit, members in units_of(layers).items():
        bits = {layers[name] for name in members}
        if len(bits) == 1 and not unit.endswith(".experts"):
            index = first(unit)
            if (values.get("bits") if index is None else given[index]) not in bits:
                found.append(unit)
    return tuple(sorted(found))
