"""Let a model in memory compute with an adapter, without peft; and read the weights of its layers."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from qtoolkit.adapters.adapter_folder import A, B
from qtoolkit.kernels import QuantizedLinear
from qtoolkit.models.structure import is_linear
from qtoolkit.stream.current_block import weight_of


@contextmanager
def with_adapter(model: nn.Module, tensors: Mapping[str, torch.Tensor], *, scaling: float = 1.0) -> Iterator[None]:
    """Add scaling * x A^T B^T to the outputs of layers, in float32 as peft does, for the time of a `with` block.

    Args:
        model: the model.
        tensors: as for `write_adapter`.
        scaling: of their products.
    """
    layers = sorted({name.rpartition(".lora_")[0] for name in tensors})
    with ExitStack() as hooks:
        for name in layers:
            a, b = (tensors[f"{name}.{part}"].float() for part in (A, B))
            handle = model.get_submodule(name).register_forward_hook(_adding(a, scaling * b))
            hooks.callback(handle.remove)
        yield


def _adding(a: torch.Tensor, b: torch.Tensor) -> Any:
    """Return a hook that adds x A^T B^T to a layer's output."""

    def hook(_module: nn.Module, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        x = args[0].float()  # [..., in]
        added = x @ a.to(x.device).T @ b.to(x.device).T  # [..., out]
        return (output.float() + added).to(output.dtype)

    return hook


def multiplied_weight(layer: Any) -> torch.Tensor:
    """Return the weight that a quantized layer multiplies with, float32 [out, in].

    A layer that is not ours is asked for its products with each input alone.
    """
    if isinstance(layer, QuantizedLinear):
        return layer.dequantize()
    if is_linear(layer):
        weight: torch.Tensor = weight_of(layer).float()
        return weight
    parameter = next(layer.parameters())
    dtype = getattr(layer, "compute_dtype", None) or torch.float32
    with torch.no_grad():
        alone = torch.eye(layer.in_features, dtype=dtype, device=parameter.device)
        outputs: torch.Tensor = layer(alone).float()  # [in, out]
        if layer.bias is not None:
            outputs -= layer.bias.float()
    return outputs.T.contiguous()
