"""What `config.json` and `quantize_config.json` say of a GPTQ checkpoint, in the words of every reader."""

import re
from collections.abc import Iterable
from typing import Any

from qtoolkit.version import __version__


def describe(config: Any, quantized: Iterable[str], left: Iterable[str]) -> dict[str, Any]:
    """The `quantization_config` of a checkpoint.

    Readers learn in different words which layers of the blocks are not quantized: optimum and vLLM by
    `modules_in_block_to_quantize` (the end of a name; a part of it), gptqmodel, vLLM and SGLang by `dynamic` (regular
    expressions). Both are written where some are left.

    Args:
        config: a `GPTQ`.
        quantized: full names of the layers that are quantized, as in the file.
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
    if rest:
        described["modules_in_block_to_quantize"] = [sorted(_shortest(names, rest))]
        described["dynamic"] = {f"-:^.*{re.escape(name)}$": {} for name in sorted(_shortest(rest, names))}
    return described


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
