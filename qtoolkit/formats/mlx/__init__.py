"""The format MLX, affine: codes as mlx-lm and LM Studio read them on Macs; exact where they are symmetric."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtoolkit.errors import ConfigError
from qtoolkit.formats.base import Layers, LayersOf
from qtoolkit.formats.grouped import OUT_OF_ORDER, Grid, GroupedFormat, RecodedLayers, StoredValues, base_grid
from qtoolkit.formats.layer import Layer
from qtoolkit.records import LayerPlan

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from qtoolkit.formats.base import Reader
    from qtoolkit.formats.layer_codes import LayerCodes
    from qtoolkit.formats.mlx.tensors import AffineTensors
    from qtoolkit.kernels import Codes
    from qtoolkit.models.checkpoint import Checkpoint
    from qtoolkit.noted import Noted

__all__ = ["FORMAT"]

QUANT_METHOD = "mlx"
# Those that MLX multiplies with (mlx 0.32, `mlx.core.quantize`).
WIDTHS = (2, 3, 4, 5, 6, 8)
GROUP_SIZES = (32, 64, 128)


class MLXFormat(GroupedFormat):
    """Store, read and describe MLX checkpoints."""

    name = quant_method = tag = library = QUANT_METHOD
    layer_suffixes = (".scales",)
    widths = WIDTHS
    embedding_widths = WIDTHS
    group_sizes = GROUP_SIZES
    rounds_minima = True

    def describes(self, values: Mapping[str, Any]) -> bool:
        """See `Format`: also what mlx-lm writes itself, which names no `quant_method`."""
        return super().describes(values) or ("quant_method" not in values and {"bits", "group_size"} <= values.keys())

    def method_of(self, values: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
        """See `Format`."""
        from qtoolkit.formats.mlx.config import options_of, origin_of

        return origin_of(values) or ("gptq", options_of(values))

    def reader(self, checkpoint: "Checkpoint") -> "Reader":
        """See `Format`."""
        from qtoolkit.formats.mlx.reader import AffineReader

        return AffineReader(checkpoint)

    def problems(self, folder: Path, values: Mapping[str, Any]) -> Sequence[str]:
        """See `Format`."""
        from qtoolkit.formats.mlx.affine_layers import problems_of

        return problems_of(folder, values)

    def layer_bits(self, values: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> Mapping[str, int]:
        """See `Format`."""
        from qtoolkit.formats.mlx.config import bits_by_scheme

        return bits_by_scheme(values, (name for name in shapes if name.endswith(self.layer_suffixes)))

    def check(self, config: Any) -> None:
        """See `GroupedFormat`: groups of 32, 64 or 128 inputs in order; asymmetric codes on request alone."""
        name = type(config).__name__
        if not (config.sym or getattr(config, "lossy", False)):
            raise ConfigError(
                f"{name}: asymmetric codes are not written as {self.name} unasked, since the minimum of a group is "
                "rounded: give lossy=True, symmetric codes, or format='compressed-tensors'"
            )
        if getattr(config, "granularity", "group") == "group" and 0 < config.group_size < min(GROUP_SIZES):
            raise ConfigError(f"{name}: format {self.name!r} holds groups of 32, 64 or 128, not {config.group_size}")
        # Other sizes above these are made smaller, as for every format: one of these divides.
        if config.group_size == -1:
            raise ConfigError(
                f"{name}: format {self.name!r} holds groups of 32, 64 or 128 inputs, not all in one: "
                "give group_size=128, or format='compressed-tensors'"
            )
        self.refuse_other_layouts(config, "whose groups are those of the inputs in order")

    def reason_to_skip(self, layer: Layer) -> str:
        """See `GroupedFormat`."""
        if not layer.in_block:
            return "outside the blocks, which alone are calibrated"
        if layer.transposed:
            return "a Conv1D, which mlx-lm would transpose: format gptq holds it"
        if layer.in_features % 32:
            return f"its inputs are no multiple of 32, the smallest group, but {layer.in_features}"
        return ""

    def tensors_of(
        self, config: Any, out_features: int, in_features: int, *, bits: int, dtype: "torch.dtype"
    ) -> "AffineTensors":
        """See `GroupedFormat`: scales have the model's type; of a float64 model float32."""
        from qtoolkit.formats.mlx.tensors import AffineTensors

        return AffineTensors(
            out_features,
            in_features,
            bits=bits,
            group_size=config.group_size,
            scale_dtype=self.scale_dtype_of(dtype),
            symmetric=config.sym,
        )

    def codes_of(self, config: Any, tensors: Mapping[str, "torch.Tensor"]) -> "Codes":
        """See `GroupedFormat`."""
        out_features, words = tensors["weight"].shape
        scales = tensors["scales"]
        in_features = scales.shape[1] * config.group_size
        bits = 32 * words // in_features
        return self.tensors_of(config, out_features, in_features, bits=bits, dtype=scales.dtype).decode(tensors)

    def describe(
        self,
        config: Any,
        quantized: Mapping[str, int],
        left: Iterable[str],
        outside: Iterable[str],
        embeddings: Mapping[str, Any],
    ) -> dict[str, Any]:
        """See `GroupedFormat`: MLX takes as quantized what has scales, so that what is left needs no mention."""
        from qtoolkit.formats.mlx.config import describe

        base = Grid(config.bits, config.group_size, config.sym)
        return describe(base, {name: replace(base, bits=bits) for name, bits in quantized.items()}, embeddings)

    def rounding_config(
        self,
        layers: Layers,
        names: Iterable[str],
        grids: Mapping[str, Grid],
        ignored: Iterable[str],
        origin: Mapping[str, Any],
        embeddings: Mapping[str, Grid],
    ) -> Any:
        """See `GroupedFormat`."""
        from qtoolkit.formats.mlx.config import QUANTIZATION, describe, for_mlx
        from qtoolkit.formats.mlx.loader import MLXConfig, register
        from qtoolkit.formats.rounding_loader import RoundingConfig, register_rounding

        register()
        register_rounding()
        values = describe(base_grid(grids, embeddings), grids, embeddings, origin)
        return RoundingConfig(MLXConfig, values, layers, names, {QUANTIZATION: for_mlx(values)})

    def notes(self, config: Any, layers: Iterable[LayerPlan]) -> tuple[str, ...]:
        """See `GroupedFormat`: what rounding minima may change."""
        if config.sym:
            return ()
        note = (
            f"lossy: {self.name} stores the minimum of each group instead of a zero point, rounded to the type of the "
            "model: in bfloat16 weights move by up to 0.2 % of the range of their group, in float16 by 0.025 %"
        )
        return (note,)

    def changes(self, layers: Iterable[StoredValues]) -> tuple[str, ...]:
        """See `GroupedFormat`: the largest change that rounded minima have made."""
        from qtoolkit.formats.mlx.affine_layers import largest_change

        changed = largest_change(layers)
        if changed is None:
            return ()
        name, change, steps = changed
        moved = f"lossy: the rounded minimum of a group moves weights by {change:.1e} at most"
        return (f"{moved}, {steps:.1%} of a step between codes, in {name}",)

    def reason_against(self, codes: "LayerCodes", layout: str) -> str:
        """See `GroupedFormat`: groups of inputs in order that are multiples of 32, 64 or 128."""
        if codes.transposed:
            return "a Conv1D"
        if codes.bits not in self.widths:
            return f"codes of {codes.bits} bits"
        if not codes.in_order:
            return OUT_OF_ORDER
        return "" if _own_group_size(codes) else f"groups of {codes.inputs_per_scale} inputs"

    def holds_scales(self, codes: "LayerCodes", dtype: "torch.dtype") -> bool:
        """See `GroupedFormat`: their products with all codes must be finite, too."""
        import torch

        return super().holds_scales(codes, dtype) and codes.largest_scale * 2**codes.bits <= torch.finfo(dtype).max

    def recoded(self, codes: "LayerCodes", layout: str, scale_dtype: "torch.dtype") -> "AffineTensors":
        """See `GroupedFormat`: larger groups are several with the same scale."""
        from qtoolkit.formats.mlx.tensors import AffineTensors

        return AffineTensors(
            *codes.shape,
            bits=codes.bits,
            group_size=_own_group_size(codes),
            scale_dtype=scale_dtype,
            symmetric=codes.sym,
        )

    def describe_recoded(self, layers: RecodedLayers, layout: str) -> dict[str, Any]:
        """See `GroupedFormat`."""
        from qtoolkit.formats.mlx.config import describe

        return describe(layers.base, layers.grids, layers.embeddings, layers.origin)

    def config_entries(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """See `GroupedFormat`: what MLX reads, too."""
        from qtoolkit.formats.mlx.config import QUANTIZATION, for_mlx

        return {**super().config_entries(values), QUANTIZATION: for_mlx(values)}

    def load(self, checkpoint: "Checkpoint", values: Mapping[str, Any], *, device: str) -> "Noted[PreTrainedModel]":
        """See `GroupedFormat`."""
        from qtoolkit.formats.mlx.reader import load_affine

        return load_affine(checkpoint, values, device=device)

    def readers(self, options: Mapping[str, Any]) -> str:
        """See `Format`."""
        return (
            "mlx-lm reads it by itself, on a Mac's GPU: `pip install mlx-lm`, then `mlx_lm.generate --model` with this "
            "model's name. LM Studio lists MLX among the formats that it runs on Macs; this model was not tried there. "
            "transformers reads it once qtoolkit is imported."
        )

    def register(self, layers_of: LayersOf) -> None:
        """See `Format`."""
        from qtoolkit.formats.mlx.loader import register

        register()


def _own_group_size(codes: "LayerCodes") -> int:
    """Return the largest size of MLX's groups that divides those of a layer; 0 for none."""
    return next((size for size in reversed(GROUP_SIZES) if codes.inputs_per_scale % size == 0), 0)


FORMAT = MLXFormat()
