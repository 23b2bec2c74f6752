"""Read and write the quantization config of GPTQ checkpoints, in `config.json` and `quantize_config.json`."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from types import MappingProxyType, SimpleNamespace
from typing import Any

from qtoolkit.errors import CheckpointError, UnsupportedModelError
from qtoolkit.formats.gptq.tensors import CHECKPOINT_FORMATS, WIDTHS
from qtoolkit.formats.grouped import RecodedLayers
from qtoolkit.formats.name_patterns import shortest
from qtoolkit.formats.origin import ORIGIN, read_origin
from qtoolkit.readers import units_of
from qtoolkit.version import __version__

# Options of `qtoolkit.GPTQ` that no reader needs, with their types; those that are on are written.
_IN_META = {"full_range": bool, "refine": int, "qep_alpha": float, "token_weights": bool}


@dataclass(frozen=True)
class QuantizeConfig:
    """The options of a GPTQ checkpoint that hold for all its layers.

    Attributes:
        bits: size of a code.
        group_size: inputs that share a scale; -1 for all of them.
        sym: whether all zero points are 2**(bits - 1).
        desc_act: whether groups were formed in order of activation, not in that of the inputs.
        checkpoint_format: "gptq" or "gptq_v2".
    """

    bits: int
    group_size: int = -1
    sym: bool = True
    desc_act: bool = False
    checkpoint_format: str = "gptq"


# What a file says of options that nobody knows of codes that come from elsewhere.
_UNKNOWN = {"true_sequential": True, "damp_percent": 0.01, **dict.fromkeys(_IN_META)}


def describe_recoded(layers: RecodedLayers, layout: str) -> dict[str, Any]:
    """Return the `quantization_config` of codes that another format had; `layout` is the `checkpoint_format`."""
    known = {name: layers.options[name] for name in _UNKNOWN if name in layers.options}
    config = SimpleNamespace(
        **_UNKNOWN | known,
        bits=layers.base.bits,
        group_size=layers.base.group_size,
        sym=layers.base.sym,
        order=layers.base.order,
        desc_act=bool(layers.options.get("desc_act")),
        checkpoint_format=layout,
    )
    bits = {name: grid.bits for name, grid in layers.grids.items()}
    described = describe(config, bits, layers.left, {name: grid.group_size for name, grid in layers.grids.items()})
    if layers.origin is not None:
        # Readers take any entry of `meta`, and warn of others that they do not know.
        described["meta"][ORIGIN] = dict(layers.origin)
    return described


def origin_of(values: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]] | None:
    """Return the name and options of the method that a `quantization_config` names; None where it names none.

    Raises:
        CheckpointError, UnsupportedModelError: as `read_origin` and `read_quantize_config`.
    """
    meta = values.get("meta")

    def stored_bits() -> set[int]:
        dynamic = values.get("dynamic") or {}
        named = {own["bits"] for own in dynamic.values() if isinstance(own, dict) and type(own.get("bits")) is int}
        return {read_quantize_config(values).bits, *named}

    return read_origin(meta, stored_bits) if isinstance(meta, dict) else None


def describe(
    config: Any,
    quantized: Mapping[str, int],
    left: Iterable[str],
    group_sizes: Mapping[str, int] = MappingProxyType({}),
) -> dict[str, Any]:
    """Return the `quantization_config` of a checkpoint.

    Which layers of the blocks are not quantized is read from different keys: optimum and vLLM use
    `modules_in_block_to_quantize` (the end of a name; a part of it), gptqmodel, vLLM and SGLang use `dynamic` (regular
    expressions). Both are written if there are such layers. Layers with other bits than `bits` are listed in `dynamic`
    only, one entry for each number of bits; gptqmodel applies the first entry that matches a name from its start.
    Entries match the matrices that servers join, "qkv_proj", too, where all layers of one agree: they look up these.

    Args:
        config: a `qtoolkit.GPTQ`.
        quantized: bits of the quantized layers by their full names in the file.
        left: full names of the matrices in the blocks that are not quantized.
        group_sizes: those of layers, as `quantized`, where they may differ.
    """
    described = {
        "quant_method": "gptq",
        "bits": config.bits,
        "group_size": config.group_size,
        "sym": config.sym,
        "desc_act": config.desc_act,
        "static_groups": config.order == "activation" and not config.desc_act,
        "act_group_aware": False,
        "true_sequential": config.true_sequential,
        "damp_percent": config.damp_percent,
        "lm_head": False,
        "checkpoint_format": config.checkpoint_format,
        "format": config.checkpoint_format,
        "pack_dtype": "int32",
        "meta": {"quantizer": [f"qtoolkit:{__version__}"]}
        | {name: value for name in _IN_META if (value := getattr(config, name))},
    }
    names = set(quantized)
    rest = set(left)
    dynamic: dict[str, dict[str, int]] = {}
    units = units_of(names | rest)
    if rest:
        described["modules_in_block_to_quantize"] = [sorted(shortest(names, rest))]
        dynamic = {f"-:^.*{re.escape(name)}$": {} for name in sorted(_ends(rest, names, units))}
    own = {name: (bits, group_sizes.get(name, config.group_size)) for name, bits in quantized.items()}
    for bits, size in sorted({*own.values()} - {(config.bits, config.group_size)}):
        same = {name for name, pair in own.items() if pair == (bits, size)}
        ends = "|".join(re.escape(name) for name in sorted(_ends(same, (names | rest) - same, units)))
        changes = {"bits": bits} | ({} if size == config.group_size else {"group_size": size})
        dynamic[rf"+:^(?:.*\.)?(?:{ends})$"] = changes
    return described | ({"dynamic": dynamic} if dynamic else {})


def _ends(same: set[str], others: set[str], units: Mapping[str, Iterable[str]]) -> set[str]:
    """Return `shortest` of layers and of the matrices that servers make of them alone."""
    whole = {unit for unit, members in units.items() if same.issuperset(members)}
    return shortest(same | whole, others | (units.keys() - whole))


def read_quantize_config(values: Mapping[str, Any]) -> QuantizeConfig:
    """Read the `quantization_config` of `config.json`, or a `quantize_config.json`.

    Raises:
        CheckpointError: a value that no GPTQ checkpoint can have.
        UnsupportedModelError: a format, or a number of bits, that is not supported here.
    """
    kind = values.get("quant_method", "gptq")
    if kind != "gptq":
        raise UnsupportedModelError(f"quant_method {kind!r:.40} is not GPTQ: load it with transformers")
    # Files older than the key have the first format.
    named = values.get("checkpoint_format") or values.get("format") or "gptq"
    checkpoint_format = "marlin" if values.get("is_marlin_format") else named
    if not isinstance(checkpoint_format, str) or checkpoint_format.lower() not in CHECKPOINT_FORMATS:
        allowed = ", ".join(CHECKPOINT_FORMATS)
        raise UnsupportedModelError(
            f"GPTQ is read in the formats {allowed}, not {checkpoint_format!r:.40}: use gptqmodel"
        )
    for key, only in (("pack_dtype", "int32"), ("rotation", None)):
        if values.get(key) not in (None, only):
            raise UnsupportedModelError(f"GPTQ with {key} {values[key]!r:.40} is not read here: use gptqmodel")
    check_dynamic(values.get("dynamic"), checkpoint_format.lower())
    config = QuantizeConfig(
        bits=_value(values, "bits", int),
        group_size=_value(values, "group_size", int, -1),
        sym=_value(values, "sym", bool, True),
        desc_act=_value(values, "desc_act", bool, False),
        checkpoint_format=checkpoint_format.lower(),
    )
    if config.bits not in WIDTHS:
        allowed = ", ".join(map(str, WIDTHS))
        raise UnsupportedModelError(f"GPTQ is read with {allowed} bits, not {config.bits}: use gptqmodel")
    if config.group_size != -1 and config.group_size < 1:
        raise CheckpointError(f"the GPTQ config has group_size {config.group_size}: it must be -1 or at least 1")
    return config


def options_of(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of `qtoolkit.GPTQ` that a `quantization_config` contains.

    Raises:
        CheckpointError, UnsupportedModelError: as `read_quantize_config`; also groups smaller than 32.
    """
    config = read_quantize_config(values)
    if 0 < config.group_size < 32:
        raise UnsupportedModelError(
            f"groups of {config.group_size} are none of qtoolkit.GPTQ: load it with transformers' from_pretrained"
        )
    options = asdict(config)
    by_activation = [values.get(key) for key in ("desc_act", "static_groups", "act_group_aware")]
    if any(isinstance(value, bool) for value in by_activation):
        options["order"] = "activation" if any(value is True for value in by_activation) else "natural"
    damp = values.get("damp_percent")
    if isinstance(damp, float) and 0 < damp < 1:
        options["damp_percent"] = damp
    if isinstance(values.get("true_sequential"), bool):
        options["true_sequential"] = values["true_sequential"]
    if values.get("lm_head") is True:
        options["exclude"] = ()
    meta = values.get("meta")
    if isinstance(meta, dict):
        options |= {name: meta[name] for name, kind in _IN_META.items() if type(meta.get(name)) is kind}
    return options


def check_dynamic(dynamic: Any, checkpoint_format: str) -> None:
    """Refuse a `dynamic` that gives single layers options which are not supported here.

    Bits, group sizes, zero points and which layers are quantized ("-:") are accepted: they are read from the tensors.

    Args:
        dynamic: regular expressions, each with the options of its layers (gptqmodel, QuantizeConfig); None without.
        checkpoint_format: the one of all other layers.

    Raises:
        CheckpointError: it does not map patterns to options.
        UnsupportedModelError: layers in another format, or with adapters.
    """
    if dynamic is None:
        return
    if not isinstance(dynamic, dict) or not all(isinstance(changes, dict) for changes in dynamic.values()):
        raise CheckpointError(f"the GPTQ config has dynamic {dynamic!r:.40}: it must map patterns to options")
    supported: dict[str, str | None] = {"format": checkpoint_format, "checkpoint_format": checkpoint_format}
    supported |= {"quant_method": "gptq", "method": "gptq", "pack_dtype": "int32", "adapter": None}
    for pattern, changes in dynamic.items():
        for key, value in changes.items():
            if key in supported and value not in (None, supported[key]):
                raise UnsupportedModelError(
                    f"GPTQ whose layers {pattern!r:.40} have {key} {value!r:.40} is not read here: use gptqmodel"
                )


def _value(values: Mapping[str, Any], key: str, kind: type, default: Any = None) -> Any:
    """Return the value of a key, or the default where it is missing or null; refuse another type than `kind`."""
    value = values.get(key, default)
    if value is None:
        value = default
    if type(value) is not kind:
        raise CheckpointError(f"the GPTQ config has {key} {value!r:.40}: it must be {_DESCRIBED[kind]}")
    return value


_DESCRIBED = {int: "a whole number", bool: "true or false"}
