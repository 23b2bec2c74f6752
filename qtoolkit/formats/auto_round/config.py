"""Translate the `quantization_config` of AutoRound into that of the format whose packing it names.

Source: auto-round 0.16.1, export/export_to_autoround/export.py and inference/backend.py: `GPTQ_FORMAT` stores zero
points less one, `GPTQ_FORMAT_NO_ZP` as they are, and `AWQ_FORMAT` is AutoAWQ's "gemm". Which layers an entry is of:
inference/convert_model.py, `get_layer_config`, and inference/utils.py, `_expand_regex_config`.
"""

import copy
import re
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from qtoolkit.errors import CheckpointError, UnsupportedModelError
from qtoolkit.matching import Expressions

if TYPE_CHECKING:
    from qtoolkit.models.checkpoint import Checkpoint

_WHERE = "load it with auto-round, or name the full-precision model"
_GPTQ = {"quant_method": "gptq", "checkpoint_format": "gptq"}
_GPTQ_V2 = {"quant_method": "gptq", "checkpoint_format": "gptq_v2"}
_AWQ = {"quant_method": "awq", "version": "gemm", "zero_point": True}
# Packing, without the programs that multiplied with it when it was written -> what it is.
_PACKED: dict[str, dict[str, Any]] = {
    "auto_round": _GPTQ_V2,
    "auto_round:gptqmodel": _GPTQ_V2,
    "auto_round:auto_gptq": _GPTQ,
    "auto_round:gptq": _GPTQ,
    "auto_round:auto_awq": _AWQ,
    "auto_round:awq": _AWQ,
}
_PROGRAM = re.compile(":(exllamav2|exllama|triton|tritonv2|cuda|marlin|torch)$")
# What these say is not in the tensors of codes: rotated inputs, and scales that are quantized themselves.
_BEYOND = ("rotation_config", "hadamard_config", "transform_config", "super_bits")
# From this number of bits on, a layer is not quantized.
_UNQUANTIZED = 16
# What an entry may change of the layers that it is of.
_CHANGED = ("bits", "group_size", "sym")


def translate(values: Mapping[str, Any], names: Collection[str] = ()) -> dict[str, Any]:
    """Return the `quantization_config` of the same tensors in the format whose packing they have.

    Args:
        values: what AutoRound wrote. Its `extra_config` maps names of layers, or regular expressions, to what they have
            otherwise than `bits`, `group_size` and `sym`. A layer has the entry of its name, or else the first whose
            expression occurs in its name (`re.search`), or that of `modules_to_not_convert`.
        names: of the matrices in the file; without them, an entry that looks like a name counts as one.

    Raises:
        CheckpointError: a value that no such checkpoint can have.
        UnsupportedModelError: a packing, a type of codes, or activations that are not read here.

    Example:
        >>> translate({"packing_format": "auto_round:auto_awq", "bits": 4, "group_size": 128})["quant_method"]
        'awq'
    """
    named = values.get("packing_format") or values.get("backend") or "auto_round:gptq"
    plain = _PROGRAM.sub("", named.lower().replace("autoround", "auto_round")) if isinstance(named, str) else ""
    if plain not in _PACKED:
        raise UnsupportedModelError(f"AutoRound's packing {named!r:.60} is not read here: {_WHERE}")
    extra = values.get("extra_config") or {}
    if not isinstance(extra, dict) or not all(isinstance(own, dict) for own in extra.values()):
        raise CheckpointError(f"the AutoRound config has extra_config {extra!r:.40}: it must map layers to options")
    for own in (values, *extra.values()):
        _refuse_others(own)
    entries = _entries(extra, values.get("modules_to_not_convert") or [], names)
    common = {"bits": values.get("bits", 4), "group_size": values.get("group_size", 128)}
    described = {**_PACKED[plain], **common}
    if described["quant_method"] == _AWQ["quant_method"]:
        # Readers look for parts of names there, and not for expressions.
        first, options = Expressions(entries).first, [*entries.values()]
        found = {name: first(name) for name in names or extra}
        left = [name for name, index in found.items() if index is not None and _is_left(options[index])]
        return described | {"modules_to_not_convert": left or None}
    syms = [own.get("sym", True) for own in (values, *(own for own in extra.values() if "sym" in own))]
    dynamic: dict[str, dict[str, Any]] = {}
    for pattern, own in entries.items():
        changes = {key: own[key] for key in _CHANGED if own.get(key) is not None}
        dynamic.update({f"-:{pattern}": {}} if _is_left(own) else {f"+:{pattern}": changes})
    sym = all(syms) if all(isinstance(one, bool) for one in syms) else syms[0]
    return described | {"sym": sym, "desc_act": False} | ({"dynamic": dynamic} if dynamic else {})


def as_packed(checkpoint: "Checkpoint") -> "Checkpoint":
    """Return a checkpoint with a `quantization_config` of the format whose packing it has, and a note.

    Raises:
        CheckpointError, UnsupportedModelError: as `translate`.
    """
    values = checkpoint.quantization or {}
    ends = (".qweight", ".weight")
    names = {name.rpartition(".")[0] for name in checkpoint.tensors if name.endswith(ends)}
    translated = translate(values, sorted(names))
    config = copy.deepcopy(checkpoint.config)
    config.quantization_config = translated
    kind = translated.get("checkpoint_format") or translated["quant_method"]
    packing = values.get("packing_format") or values.get("backend")
    note = f"read as {kind}, which is how AutoRound packed it" + (f" ({packing})" if packing else "")
    return replace(checkpoint, config=config).with_notes(note)


def _refuse_others(own: Mapping[str, Any]) -> None:
    """Refuse codes that are no integers, quantized activations, and what is not in the tensors of codes."""
    kind = own.get("data_type")
    if kind not in (None, "int", "int_sym", "int_asym"):
        raise UnsupportedModelError(f"AutoRound with data_type {kind!r:.40} is not read here: {_WHERE}")
    bits = own.get("act_bits")
    if isinstance(bits, int) and bits < _UNQUANTIZED:
        raise UnsupportedModelError(f"AutoRound with activations of {bits} bits is not read here: {_WHERE}")
    beyond = next((key for key in _BEYOND if own.get(key)), None)
    if beyond is not None:
        raise UnsupportedModelError(f"AutoRound with {beyond} is not read here: {_WHERE}")


def _bits_of(own: Mapping[str, Any], default: int) -> int:
    """Return the bits that a layer has otherwise; refuse another type."""
    bits = own.get("bits")
    if bits is not None and type(bits) is not int:
        raise CheckpointError(f"the AutoRound config has bits {bits!r:.40}: it must be a whole number")
    return default if bits is None else bits


def _entries(extra: Mapping[str, Mapping[str, Any]], left: Any, names: Collection[str]) -> dict[str, Mapping[str, Any]]:
    """Return the options of layers by expressions for `re.match`; the first that matches a name holds.

    Expressions that give nothing are left out, as auto-round does.

    Args:
        extra: `extra_config`.
        left: `modules_to_not_convert`, whose layers are not quantized.
        names: as for `translate`.

    Raises:
        CheckpointError: `left` is no list of texts.
    """
    if not isinstance(left, list) or not all(isinstance(part, str) for part in left):
        raise CheckpointError(
            f"the AutoRound config has modules_to_not_convert {left!r:.40}: it must be a list of names"
        )
    searched: list[tuple[str, Mapping[str, Any]]] = [(f".*(?:{part})", {"bits": _UNQUANTIZED}) for part in left]
    known = set(names)
    exact = {name for name in extra if (name in known if known else re.fullmatch(r"[\w.\-]+", name))}
    searched += [(f"^{re.escape(name)}$", extra[name]) for name in extra if name in exact]
    searched += [(f".*(?:{name})", own) for name, own in extra.items() if own and name not in exact]
    entries: dict[str, Mapping[str, Any]] = {}
    for pattern, own in searched:
        entries.setdefault(pattern, own)
    return entries


def _is_left(own: Mapping[str, Any]) -> bool:
    """Check whether layers with these options are not quantized."""
    return _bits_of(own, 0) >= _UNQUANTIZED
