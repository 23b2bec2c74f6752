"""Give a quantized model plain layers again, with the weights that its codes stand for."""

import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from qtoolkit.kernels import QuantizedEmbedding, QuantizedLinear, TiedHead
from qtoolkit.models.structure import is_transposed

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def dequantize_layers(model: "PreTrainedModel", dtype: torch.dtype) -> None:
    """Replace all layers that hold codes by those that the model's class has in their place, one after the other.

    Experts that were split into linear layers stay split.

    Args:
        model: changed in place.
        dtype: type of the weights.
    """
    config = copy.deepcopy(model.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    with torch.device("meta"):
        like = type(model)(config)
    modules = dict(like.named_modules())
    heads = [name for name, module in model.named_modules() if isinstance(module, TiedHead)]
    for name, layer in list(model.named_modules()):
        if isinstance(layer, QuantizedLinear):
            model.set_submodule(name, _plain(modules.get(name), layer, dtype))
    if not heads:
        return
    for name in heads:
        head: Any = modules[name]
        head.weight = model.get_input_embeddings().weight
        model.set_submodule(name, head)
    model.all_tied_weights_keys = like.all_tied_weights_keys
    model._tied_weights_keys = like._tied_weights_keys  # noqa: SLF001


def _plain(like: Any, layer: QuantizedLinear, dtype: torch.dtype) -> nn.Module:
    """Return `like`, the layer of the model's class without values, or a linear layer, with the weight of `layer`."""
    if like is None:
        like = nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None, device="meta")
    weight = layer.dequantize().to(dtype)
    like.weight = nn.Parameter(weight.T.contiguous() if is_transposed(like) else weight, requires_grad=False)
    if layer.bias is not None:
        like.bias = nn.Parameter(layer.bias.to(dtype), requires_grad=False)
    if isinstance(layer, QuantizedEmbedding) and layer.factor is not None:
        # The only buffer of an embedding: its factor.
        for name, _ in like.named_buffers():
            like.register_buffer(name, torch.tensor(layer.factor, device=weight.device), persistent=False)
    module: nn.Module = like.train(layer.training)
    return module
