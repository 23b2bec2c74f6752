"""Refuse codes of a quantized model whose config does not say so, before they are loaded as if they were weights."""

from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Protocol

import torch

from qtoolkit.errors import UnsupportedModelError
from qtoolkit.models.dtypes import FLOATS
from qtoolkit.models.renaming import names_in_model

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from qtoolkit.models.checkpoint import Checkpoint

# The end of a tensor's name -> the format of its codes. The name of a scale tells more than that of the codes.
_ENDS = {
    ".quant_state.bitsandbytes__nf4": "bitsandbytes' NF4",
    ".quant_state.bitsandbytes__fp4": "bitsandbytes' FP4",
    ".weight.absmax": "bitsandbytes' NF4 or FP4",
    ".SCB": "bitsandbytes' LLM.int8()",
    ".qweight": "GPTQ, AWQ or FP-Quant",
    ".weight_scale_inv": "FP8 with a scale for each block",
    ".weight_packed": "compressed-tensors",
    ".weight_scale_2": "ModelOpt's NVFP4",
    ".weight_scale": "FP8 or int8 of compressed-tensors, or BitNet",
    ".W_q": "HQQ or SINQ",
    "_blocks": "MXFP4",
    ".weight_scales": "EETQ",
}
# The end of the name of a tensor that is stored beside "NAME.weight" -> the format of that.
_BESIDE = {
    ".tables": "HIGGS",
    ".biases": "MLX",
    ".qbiases": "MLX",
    ".scales": "MLX",
    ".scale": "absmax or zero-point of qtoolkit",
}
# The ends of the names of codes that are stored instead of "NAME.weight" and of a tensor beside them, and their format.
# Some of these names are short, so that both are needed.
_INSTEAD = (
    ("._weight_qdata", "._weight_scale", "torchao"),
    (".weight._data", ".weight._scale", "quanto"),
    (".weight._data._data", ".weight._scale", "quanto"),
    (".codes", ".codebooks", "AQLM"),
    (".indices", ".centroids.weight", "VPTQ"),
    (".dense_weights", ".row_offsets", "SpQR"),
    (".Qidxs", ".SU", "QuIP#"),
    (".trellis", ".SU", "QTIP"),
    (".trellis", ".suh", "EXL3"),
    (".trellis", ".su", "EXL3"),
    (".q_weight", ".q_invperm", "EXL2"),
    (".q_weight", ".q_scale", "MLC"),
    (".B", ".s", "Marlin"),
)


class _Header(Protocol):
    """The header of a tensor in a file, or the tensor itself."""

    @property
    def dtype(self) -> torch.dtype:
        """Its torch type."""


def find_codes(tensors: Mapping[str, _Header], is_weight: Callable[[str], bool]) -> str | None:
    """Find a tensor of codes.

    Args:
        tensors: headers or tensors by name.
        is_weight: tells whether a name is that of a parameter that is a float in the model.

    Returns:
        Its name and format in words, for a message; None where all weights are floats of 16 bits or more.
    """
    odd = [name for name, tensor in sorted(tensors.items()) if tensor.dtype not in FLOATS]
    if not odd:
        return None
    known = _instead_of_a_weight(tensors, odd) or _beside_codes(tensors, odd)
    if known is not None:
        return known
    name = next((name for name in odd if is_weight(name)), None)
    if name is None:
        return None
    dtype = str(tensors[name].dtype).removeprefix("torch.")
    stem = name.removesuffix(".weight")
    kinds = (f"as in {kind}" for end, kind in _BESIDE.items() if f"{stem}{end}" in tensors)
    return f"{name:.120} is {dtype}, {next(kinds, 'without its scale')}"


def _instead_of_a_weight(tensors: Mapping[str, _Header], odd: Collection[str]) -> str | None:
    """Find codes of a known format in a module without a weight; returns as `find_codes`."""
    for end, beside, kind in _INSTEAD:
        for name in odd:
            stem = name.removesuffix(end)
            if name.endswith(end) and f"{stem}{beside}" in tensors and f"{stem}.weight" not in tensors:
                return f"{name:.120} belongs to {kind}"
    return None


def _beside_codes(tensors: Mapping[str, _Header], odd: Collection[str]) -> str | None:
    """Find a tensor whose name belongs to a format, in a module that has codes; returns as `find_codes`.

    Floats of such a name prove nothing without codes: some model may have a factor of that name.
    """
    holders = {name.rpartition(".")[0] for name in odd}
    for end, kind in _ENDS.items():
        for name in sorted(name for name in tensors if name.endswith(end)):
            if name in odd or name.removesuffix(end) in holders:
                return f"{name:.120} belongs to {kind}"
    return None


def _lost_weight(tensors: Mapping[str, _Header], known: Collection[str]) -> str | None:
    """Find a tensor that is no float in a module whose weight is missing; returns as `find_codes`.

    Args:
        tensors: headers or tensors by name.
        known: names of the parameters that are floats in the model.
    """
    lost = {name.removesuffix(".weight") for name in known if name.endswith(".weight") and name not in tensors}
    odd = (name for name, tensor in sorted(tensors.items()) if tensor.dtype not in FLOATS)
    name = next((name for name in odd if name.rpartition(".")[0] in lost), None)
    return None if name is None else f"{name:.120} is no float, and stands where a weight is missing"


def refuse_packed(name: str, tensors: Mapping[str, torch.Tensor]) -> None:
    """Refuse tensor subclasses, such as those in which torchao keeps codes and whose `dtype` is a float.

    Args:
        name: the class of the model in memory that holds the tensors.
        tensors: its tensors, detached.

    Raises:
        UnsupportedModelError: one is of a subclass.
    """
    kind = next((type(tensor).__name__ for tensor in tensors.values() if type(tensor) is not torch.Tensor), None)
    if kind is not None:
        raise UnsupportedModelError(f"this {name} holds {kind}s, not plain tensors: give the full-precision model")


def refuse_codes(checkpoint: "Checkpoint", model: "PreTrainedModel") -> None:
    """Refuse integers and float8 where the model has floats: transformers would load them as weights.

    Args:
        checkpoint: a model without a `quantization_config`.
        model: the model on the meta device.

    Raises:
        UnsupportedModelError: there are codes; the message names their format.
    """

    def is_weight(name: str) -> bool:
        from transformers.conversion_mapping import get_model_conversion_mapping

        return names_in_model(model, [name], get_model_conversion_mapping(model))[name] in floats

    floats = {name for name, tensor in model.state_dict().items() if tensor.dtype in FLOATS}
    codes = find_codes(checkpoint.tensors, is_weight) or _lost_weight(checkpoint.tensors, floats)
    if codes:
        here = "give" if checkpoint.path is None else "restore that config.json, or name"
        raise UnsupportedModelError(
            f"{checkpoint.name} holds codes, not weights ({codes}), and its config has no quantization_config: "
            f"{here} the full-precision model"
        )
