"""Train codes and scales themselves by a straight-through estimator, beside whatever trains the model."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase

import torch
from torch import nn

from qtoolkit.errors import CheckpointError, ConfigError
from qtoolkit.kernels import Codes, QuantizedEmbedding, QuantizedLinear, codes_as_stored, of_inputs, with_codes


class TrainedLinear(nn.Module):
    """Compute y = x Q(W)^T + bias, where Q(W) = (clamp(round(W / scale + zero)) - zero) * scale.

    Gradients go through `round` as if it were not there, and W gets none where its code is clamped (straight-through
    estimator, arXiv 1308.3432). Those of the scale are then those of LSQ (arXiv 1902.08153). W begins as the layer's
    own weight, so that the first outputs are those of the layer. Zero points stay.

    Args:
        layer: of integer codes; it stays as it is.

    Raises:
        UnsupportedModelError: its codes are those of FP8, have minima, or its inputs are rounded.
    """

    zero: torch.Tensor

    def __init__(self, layer: QuantizedLinear) -> None:
        super().__init__()
        codes = codes_as_stored(layer)
        with_codes(layer, codes)  # refuses what `finish` could not store
        self.in_features, self.out_features = layer.in_features, layer.out_features
        every = slice(0, layer.out_features)
        scale = codes.scale(every)
        self.scale_dtypes = (torch.bfloat16, scale.dtype) if _is_short(scale) else (scale.dtype,)
        self.weight = nn.Parameter(layer.dequantize())  # [out, in]
        self.scale = nn.Parameter(scale.float().clone())  # [groups, out], or [1, 1]
        self.bias = layer.bias
        zero = torch.as_tensor(codes.zero_points(every), device=codes.device).float()
        zero = of_inputs(codes, zero)
        self.register_buffer("zero", zero.T if zero.ndim else zero, persistent=False)  # [out, in], or one number
        self.layer = (layer,)  # in a tuple it is no child, whose tensors would be saved
        self.codes = codes
        self.most = 2**codes.bits - 1

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute x[..., in_features] -> [..., out_features] in x.dtype."""
        bias = None if self.bias is None else self.bias.to(x.dtype)
        scale = of_inputs(self.codes, self.stored_scale()).T  # [out, in], or [1, 1]
        weight = (_rounded(self._levels(scale)) - self.zero) * scale
        return nn.functional.linear(x, weight.to(x.dtype), bias)

    def stored_scale(self) -> torch.Tensor:
        """Return the scales as they will be stored, and their gradients as if they were not rounded."""
        stored = self.scale.detach()
        for dtype in self.scale_dtypes:
            stored = stored.to(dtype).float()
        return self.scale + (stored - self.scale).detach()

    def finish(self) -> QuantizedLinear:
        """Return the layer with the trained codes and scales, stored as its own are.

        Raises:
            CheckpointError: a weight or a scale is NaN or infinite, or a scale is 0.
        """
        scale = self.stored_scale().detach()
        if not (self.weight.isfinite().all() and scale.isfinite().all() and scale.all()):
            raise CheckpointError("training left weights or scales that are infinite, NaN or 0: use a smaller rate")
        levels = self._levels(of_inputs(self.codes, scale).T).detach().round()
        return with_codes(
            self.layer[0], _Trained(self.codes, levels.T.to(torch.uint8), scale.to(self.scale_dtypes[-1]))
        )

    def _levels(self, scale: torch.Tensor) -> torch.Tensor:
        """Return W / scale + zero within the range of the codes, [out, in]."""
        return (self.weight / scale + self.zero).clamp(0, self.most)


@contextmanager
def training_codes(model: nn.Module, include: Sequence[str]) -> Iterator[list[nn.Parameter]]:
    """Let the layers of codes in a model be trained for the time of a `with` block; afterwards they hold codes again.

    Args:
        model: its layers are replaced in place.
        include: fnmatch patterns of the names of layers.

    Yields:
        Weights and scales of these layers; all other parameters are frozen meanwhile.

    Raises:
        ConfigError: no layer of codes has such a name.
        UnsupportedModelError: a layer whose codes cannot be trained.
    """
    names = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, QuantizedLinear)
        and not isinstance(module, QuantizedEmbedding)
        and any(fnmatchcase(name, pattern) for pattern in include)
    }
    if not names:
        raise ConfigError(
            f"no layer of integer codes has a name like {', '.join(include)}: look at model.named_modules()"
        )
    trained = {name: TrainedLinear(layer) for name, layer in names.items()}
    frozen = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in frozen:
        parameter.requires_grad_(False)
    for name, layer in trained.items():
        model.set_submodule(name, layer)
    # transformers' Trainer refuses models that are quantized, and here they are not meanwhile.
    was_quantized = vars(model).pop("is_quantized", None)
    finished: dict[str, QuantizedLinear] = dict(names)
    try:
        yield [parameter for layer in trained.values() for parameter in layer.parameters()]
        finished = {name: layer.finish().prepare() for name, layer in trained.items()}
    finally:
        for name, whole in finished.items():
            model.set_submodule(name, whole)
        for parameter in frozen:
            parameter.requires_grad_(True)
        if was_quantized is not None:
            vars(model)["is_quantized"] = was_quantized


class _Trained(Codes):
    """Codes and scales of the same layout as others.

    Args:
        source: the others.
        codes: uint8 [in, out].
        scale: [groups, out], or [1, 1], in the type in which it is stored.
    """

    def __init__(self, source: Codes, codes: torch.Tensor, scale: torch.Tensor) -> None:
        self.describe_as(source)
        self.groups = source.groups
        self._codes = codes
        self._scale = scale

    def codes(self, outputs: slice) -> torch.Tensor:
        """See `Codes`."""
        return self._codes[:, outputs].contiguous()

    def scale(self, outputs: slice) -> torch.Tensor:
        """See `Codes`."""
        return self._scale if self._scale.shape[1] == 1 else self._scale[:, outputs]


def _rounded(levels: torch.Tensor) -> torch.Tensor:
    """Return whole numbers, with the gradients of the levels."""
    return levels + (levels.round() - levels).detach()


def _is_short(scale: torch.Tensor) -> bool:
    """Check whether all scales are exact in bfloat16, so that readers in either 16-bit type multiply with the same."""
    return torch.equal(scale.to(torch.bfloat16).float(), scale.float())
