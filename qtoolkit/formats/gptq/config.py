"""What `config.json` and `quantize_config.json` say of a GPTQ checkpoint, in the words of every reader."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from qtoolkit.errors import CheckpointError, UnsupportedModelError
from qtoolkit.formats.gptq.tensors import CHECKPOINT_FORMATS
from qtoolkit.records import LayerPlan
from qtoolkit.tensor import WORD_BITS
from qtoolkit.version import __version__


@dataclass(frozen=True)
class Settings:
    """What a checkpoint says of all its layers.

    Attributes:
        bits: size of a code.
        group_size: inputs that share a scale; -1 for all of them.
        sym: whether zero points are in the middle of the codes.
        desc_act: whether groups were formed in another order than that of the inputs.
        checkpoint_format: "gptq" or "gptq_v2".
    """

    bits: int
    group_size: int = -1
    sym: bool = True
    desc_act: bool = False
    checkpoint_format: str = "gptq"


def describe(config: Any, quantized: Mapping[str, int], left: Iterable[str]) -> dict[str, Any]:
    """Return the `quantization_config` of a checkpoint.

    Readers learn in different words which layers of the blocks are not quantized: optimum and vLLM by
    `modules_in_block_to_quantize` (the end of a name; a part of it), gptqmodel, vLLM and SGLang by `dynamic` (regular
    expressions). Both are written where some are left. Layers with other bits than `bits` are told by `dynamic` alone,
    one entry for each number of bits; gptqmodel takes the first entry that matches a name from its start.

    Args:
        config: a `GPTQ`.
        quantized: bits of the layers that are quantized, by their full names in the file.
        left: full names of matrices in the blocks that are not.
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
        "meta": {"quantizer": [f"qtoolkit:{__version__}"]},
    }
    names, rest = set(quantized), set(left)
    dynamic: dict[str, dict[str, int]] = {}
    if rest:
        described["modules_in_block_to_quantize"] = [sorted(_shortest(names, rest))]
        dynamic = {f"-:^.*{re.escape(name)}$": {} for name in sorted(_shortest(rest, names))}
    for bits in sorted(set(quantized.values()) - {config.bits}):
        same = {name for name, count in quantized.items() if count == bits}
        ends = "|".join(re.escape(name) for name in sorted(_shortest(same, names - same)))
        dynamic[rf"+:^(?:.*\.)?(?:{ends})$"] = {"bits": bits}
    return described | ({"dynamic": dynamic} if dynamic else {})


def read_settings(values: Mapping[str, Any]) -> Settings:
    """What a `quantization_config` of `config.json`, or a `quantize_config.json`, says of all layers.

    Raises:
        CheckpointError: a value that no GPTQ checkpoint can have.
        UnsupportedModelError: a format, or a number of bits, that is not read here.
    """
    kind = values.get("quant_method", "gptq")
    if kind != "gptq":
        raise UnsupportedModelError(f"quant_method {kind!r:.40} is not GPTQ: load it with transformers")
    # Files from before the key are all of the first format.
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
    settings = Settings(
        bits=_value(values, "bits", int),
        group_size=_value(values, "group_size", int, -1),
        sym=_value(values, "sym", bool, True),
        desc_act=_value(values, "desc_act", bool, False),
        checkpoint_format=checkpoint_format.lower(),
    )
    if settings.bits not in WORD_BITS:
        allowed = ", ".join(map(str, WORD_BITS))
        raise UnsupportedModelError(f"GPTQ is read with {allowed} bits, not {settings.bits}: use gptqmodel")
    if settings.group_size != -1 and settings.group_size < 1:
        raise CheckpointError(f"the GPTQ config has group_size {settings.group_size}: it must be -1 or at least 1")
    return settings


def options_of(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of its method that a `quantization_config` tells.

    Raises:
        CheckpointError, UnsupportedModelError: as `read_settings`; also groups smaller than those that are made here.
    """
    settings = read_settings(values)
    if 0 < settings.group_size < 32:
        raise UnsupportedModelError(
            f"groups of {settings.group_size} are none of qtoolkit.GPTQ: load it with transformers' from_pretrained"
        )
    known: dict[str, Any] = {
        "bits": settings.bits,
        "group_size": settings.group_size,
        "sym": settings.sym,
        "desc_act": settings.desc_act,
        "checkpoint_format": settings.checkpoint_format,
    }
    if any(isinstance(values.get(key), bool) for key in ("desc_act", "static_groups", "act_group_aware")):
        by_activation = any(values.get(key) is True for key in ("desc_act", "static_groups", "act_group_aware"))
        known["order"] = "activation" if by_activation else "natural"
    damp, sequential = values.get("damp_percent"), values.get("true_sequential")
    if isinstance(damp, float) and 0 < damp < 1:
        known["damp_percent"] = damp
    if isinstance(sequential, bool):
        known["true_sequential"] = sequential
    if values.get("lm_head") is True:
        known["exclude"] = ()
    return known


def notes_on(config: Any, layers: Iterable[LayerPlan]) -> tuple[str, ...]:
    """What to know of a result: who reads it, and whether it will be of use."""
    bits, notes = {layer.bits for layer in layers}, []
    if config.sym and 2 in bits:
        # SmolLM2-135M: perplexity 2,358, where 68 with sym=False and 20 in bfloat16.
        notes.append("models fall apart with 2 bits and sym=True: give sym=False, or more bits")
    if len(bits) > 1:
        notes.append("layers with different bits are read by qtoolkit and gptqmodel, not by auto-gptq and optimum")
    return tuple(notes)


def check_dynamic(dynamic: Any, checkpoint_format: str) -> None:
    """Refuse what `dynamic` says of single layers and their tensors alone do not tell.

    Bits, group sizes and zero points are read from the tensors, and so is which layers are quantized ("-:").

    Args:
        dynamic: regular expressions, each with what other options its layers have (gptqmodel, QuantizeConfig).
        checkpoint_format: that of the whole file.

    Raises:
        CheckpointError: it is no such mapping.
        UnsupportedModelError: layers in another format, or with adapters.
    """
    if dynamic is None:
        return
    if not isinstance(dynamic, dict) or not all(isinstance(changes, dict) for changes in dynamic.values()):
        raise CheckpointError(f"the GPTQ config has dynamic {dynamic!r:.40}: it must map patterns to options")
    usual: dict[str, str | None] = {"format": checkpoint_format, "checkpoint_format": checkpoint_format}
    usual |= {"quant_method": "gptq", "method": "gptq", "pack_dtype": "int32", "adapter": None}
    for pattern, changes in dynamic.items():
        for key, value in changes.items():
            if key in usual and value not in (None, usual[key]):
                raise UnsupportedModelError(
                    f"GPTQ whose layers {pattern!r:.40} have {key} {value!r:.40} is not read here: use gptqmodel"
                )


def _value(values: Mapping[str, Any], key: str, kind: type, default: Any = None) -> Any:
    value = values.get(key, default)
    if value is None:
        value = default
    if type(value) is not kind:
        raise CheckpointError(f"the GPTQ config has {key} {value!r:.40}: it must be {_DESCRIBED[kind]}")
    return value


_DESCRIBED = {int: "a whole number", bool: "true or false"}


def _shortest(names: set[str], others: set[str]) -> set[str]:
    """Ends of `names` without the number of the block, where no name of `others` ends so; otherwise with it.

    Example: in each block the same layers.

        >>> _shortest({"m.layers.0.a.q", "m.layers.1.a.q"}, {"m.layers.0.a.k", "m.layers.1.a.k"})
        {'a.q'}
        >>> sorted(_shortest({"m.layers.0.a.q"}, {"m.layers.1.a.q"}))
        ['layers.0.a.q']
    """
    ends = {_within_block(name) for name in others}
    return {inner if (inner := _within_block(name)) not in ends else _from_list(name) for name in names}


def _within_block(name: str) -> str:
    return _BLOCK.sub("", name, count=1)


def _from_list(name: str) -> str:
    found = _BLOCK.match(name)
    return name[found.start("list") :] if found else name


# "model.layers.3." of "model.layers.3.mlp.up_proj".
_BLOCK = re.compile(r"^(?:.*?\.)??(?P<list>[^.]+)\.\d+\.")
