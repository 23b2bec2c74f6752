"""What `config.json` and `quantize_config.json` say of a GPTQ checkpoint, in the words of every reader."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from qtoolkit.errors import CheckpointError, UnsupportedModelError
from qtoolkit.records import LayerPlan
from qtoolkit.version import __version__


def describe(config: Any, quantized: Mapping[str, int], left: Iterable[str]) -> dict[str, Any]:
    """The `quantization_config` of a checkpoint.

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
