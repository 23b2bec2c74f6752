"""Codes of a quantized model whose config does not say so: they must not be taken for weights."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Protocol

import torch

from qtoolkit.errors import UnsupportedModelError
from qtoolkit.source.renaming import names_in_model

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from qtoolkit.source.checkpoint import Checkpoint

# What weights are stored in.
_FLOATS = (torch.bfloat16, torch.float16, torch.float32, torch.float64)
# How a tensor's name ends -> whose codes it belongs to. A scale beside codes tells more than the codes.
_ENDS = {
    ".quant_state.bitsandbytes__nf4": "bitsandbytes' NF4",
    ".quant_state.bitsandbytes__fp4": "bitsandbytes' FP4",
    ".SCB": "bitsandbytes' LLM.int8()",
    ".qweight": "GPTQ or AWQ",
    ".weight_scale_inv": "FP8 with a scale for each block",
    ".weight_packed": "compressed-tensors",
    ".weight_scale": "FP8 or int8 of compressed-tensors",
    ".W_q": "HQQ",
    "_blocks": "MXFP4",
}
# The same of a tensor beside "NAME.weight".
_BESIDE = {".biases": "MLX", ".scales": "MLX", ".scale": "absmax or zero-point of qtoolkit"}


class _Header(Protocol):
    """What a file says of a tensor; a tensor will do."""

    @property
    def dtype(self) -> torch.dtype:
        """Its type."""


def find_codes(tensors: Mapping[str, _Header], is_weight: Callable[[str], bool]) -> str | None:
    """A tensor of codes and whose they are, for a message; None where all weights are floats of 16 bits or more.

    Args:
        tensors: headers or tensors by name.
        is_weight: whether a name is that of a parameter which the model has in floats.
    """
    odd = [name for name, tensor in sorted(tensors.items()) if tensor.dtype not in _FLOATS]
    if not odd:
        return None
    for end, kind in _ENDS.items():
        found = next((name for name in sorted(tensors) if name.endswith(end)), None)
        if found is not None:
            return f"{found:.120} belongs to {kind}"
    name = next((name for name in odd if is_weight(name)), None)
    if name is None:
        return None
    dtype, stem = str(tensors[name].dtype).removeprefix("torch."), name.removesuffix(".weight")
    kinds = (kind for end, kind in _BESIDE.items() if f"{stem}{end}" in tensors)
    return f"{name:.120} is {dtype}, {next((f'as in {kind}' for kind in kinds), 'without its scale')}"


def refuse_packed(name: str, tensors: Mapping[str, torch.Tensor]) -> None:
    """Refuse tensors of another class: torchao keeps codes in such as say of themselves that they are floats.

    Args:
        name: of the class of the model in memory that holds them.
        tensors: detached.

    Raises:
        UnsupportedModelError: there is one.
    """
    kind = next((type(tensor).__name__ for tensor in tensors.values() if type(tensor) is not torch.Tensor), None)
    if kind is not None:
        raise UnsupportedModelError(f"this {name} holds {kind}s, not plain tensors: give the full-precision model")


def refuse_codes(checkpoint: "Checkpoint", model: "PreTrainedModel") -> None:
    """Refuse integers and float8 where the model has floats: transformers would load them as if they were weights.

    Args:
        checkpoint: says of itself that it is in full precision.
        model: on the meta device.

    Raises:
        UnsupportedModelError: there are some; named for what they are.
    """

    def is_weight(name: str) -> bool:
        from transformers.conversion_mapping import get_model_conversion_mapping

        known = model.state_dict()
        found = known.get(names_in_model(model, [name], get_model_conversion_mapping(model))[name])
        return found is not None and found.dtype in _FLOATS

    codes = find_codes(checkpoint.tensors, is_weight)
    if codes:
        here = "give" if checkpoint.path is None else "restore that config.json, or name"
        raise UnsupportedModelError(
            f"{checkpoint.name} holds codes, not weights ({codes}), and its config has no quantization_config: "
            f"{here} the full-precision model"
        )
