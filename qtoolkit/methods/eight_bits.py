"""Round weights to 8 bits for servers that multiply in 8 bits: float8, and int8 (W8A8); inputs are rounded as they run.

Nothing is calibrated: weights are rounded from themselves, and each token's inputs by their own largest magnitude. The
schemes FP8_DYNAMIC, FP8_BLOCK and W8A8 of llm-compressor (compressed-tensors 0.20, quantization/quant_scheme.py).
"""

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from qtoolkit.errors import ConfigError
from qtoolkit.formats import Grid, GroupedFormat, Layer, get_format
from qtoolkit.methods.config import MethodConfig
from qtoolkit.methods.method import Offer
from qtoolkit.methods.weight_only import LinearMethod
from qtoolkit.records import LayerPlan, Plan
from qtoolkit.requests import option

if TYPE_CHECKING:
    import torch

    from qtoolkit.formats.stored_layer import RowTensors
    from qtoolkit.models.checkpoint import Checkpoint

# What the kernels of servers take: rows and columns of weights in multiples.
_MULTIPLE = 16
# The programs that multiply in 8 bits; others expand the codes, and gain nothing.
_SERVERS = ("vllm", "sglang")
# Outputs and inputs of a block, and what kernels of blocks take.
_BLOCK = (128, 128)


@dataclass(frozen=True, kw_only=True)
class EightBitConfig(MethodConfig):
    """Base of the configs of float8 and of int8 W8A8."""

    format: ClassVar[str] = "compressed-tensors"
    # Token embedding and output head are not quantized.
    embeddings: ClassVar[None] = None

    @property
    def block(self) -> tuple[int, int] | None:
        """Return outputs and inputs that share a scale; None for one scale an output."""
        return None

    @abstractmethod
    def grid(self, layer: Layer) -> Grid:
        """Return how the codes of a layer are spaced."""

    @property
    def stored_as(self) -> GroupedFormat:
        """Return the format that stores the codes."""
        stored_as = get_format(self.format)
        assert isinstance(stored_as, GroupedFormat)
        return stored_as


@dataclass(frozen=True, kw_only=True)
class FP8(EightBitConfig):
    """8-bit floating point (e4m3): code = w / scale, scale = max|w| / 448; inputs are rounded so too, token by token.

    8.03 bits per weight with 576 inputs. vLLM and SGLang multiply in float8 on GPUs from compute capability 8.9 on.
    """

    method: ClassVar[str] = "fp8"
    input_type: ClassVar[str] = "float8"

    granularity: str = option(
        "channel",
        choices=("channel", "block"),
        help="what shares one scale: an output, or a block of 128 outputs and 128 inputs, as DeepSeek's models have it",
    )

    @property
    def block(self) -> tuple[int, int] | None:
        """See `EightBitConfig`."""
        return _BLOCK if self.granularity == "block" else None

    def grid(self, layer: Layer) -> Grid:
        """See `EightBitConfig`."""
        return Grid(8, -1, sym=True, kind="float", block=self.block, in_bytes=True)


@dataclass(frozen=True, kw_only=True)
class W8A8(EightBitConfig):
    """8-bit integers for weights and inputs: absmax with a scale for each output, and for each token's inputs.

    vLLM and SGLang multiply in int8, on GPUs from compute capability 7.5 on (T4).
    """

    method: ClassVar[str] = "w8a8"
    input_type: ClassVar[str] = "int8"

    def stored_in(self, name: str, *, lossy: bool = False) -> MethodConfig | None:
        """See `MethodConfig`: in a format that rounds no inputs, the codes are those of absmax by channel."""
        from qtoolkit.methods import config_class

        weights_alone = config_class("absmax").from_dict(
            {"bits": 8, "granularity": "channel", "exclude": self.exclude, "format": MethodConfig.format}
        )
        return weights_alone.stored_in(name, lossy=lossy)

    def grid(self, layer: Layer) -> Grid:
        """See `EightBitConfig`."""
        return Grid(8, -1, sym=True, in_bytes=True)


class EightBitMethod(LinearMethod):
    """Base of both methods: a byte a weight, and a scale for each output or block."""

    code_bits = 8
    splits_experts = True
    also_changes = "inputs of these layers are rounded to 8 bits too, token by token, whenever it runs"

    @abstractmethod
    def round_weight(
        self, weight: "torch.Tensor", config: Any, scale_dtype: "torch.dtype"
    ) -> "tuple[torch.Tensor, torch.Tensor]":
        """Return codes [out, in], and scales [out, 1] or one for each block.

        Args:
            weight: W[out, in] in full precision.
            config: the method's.
            scale_dtype: type of the scales.
        """

    def fit(self, layers: tuple[Layer, ...], config: EightBitConfig) -> MethodConfig:
        """See `Method`: refuse a model whose layers are all left, and one whose experts no reader would find."""
        name = type(config).__name__
        reasons = [self._reason(layer, config) for layer in layers]
        left = [reason for layer, reason in zip(layers, reasons, strict=True) if reason and ".experts." in layer.name]
        if left or any(layer.beside_experts for layer in layers):
            raise ConfigError(
                f"{name}: experts that are left ({left[0] if left else 'excluded by name'}) stay in one tensor, where "
                "no reader of the format looks for them: AbsMax and GPTQ leave experts out in their own formats"
            )
        if layers and all(reasons):
            advice = "granularity='channel' takes more" if config.block else "quantize it with AbsMax"
            raise ConfigError(f"{name}: no layer can be quantized ({reasons[0]}): {advice}")
        return config

    def plan_layer(self, layer: Layer, config: EightBitConfig) -> LayerPlan:
        """See `Method`: skip a layer that the kernels of servers do not take."""
        from qtoolkit.kernels import memory_bytes, stored_bytes

        reason = self._reason(layer, config)
        if reason:
            return layer.left_alone(reason)
        tensors = self._tensors(layer, config)
        stored = stored_bytes(tensors)
        # A float32 copy, and the codes.
        working = 5 * layer.num_weights + stored
        packed = memory_bytes(tensors, device=layer.device)
        return layer.replaced(packed, disk_bytes=stored, working_bytes=working)

    def quantize_weight(
        self, weight: "torch.Tensor", layer: Layer, config: EightBitConfig
    ) -> "dict[str, torch.Tensor]":
        """See `LinearMethod`."""
        tensors = self._tensors(layer, config)
        _, scale_dtype = tensors.tensors()[tensors.scale_name]
        codes, scale = self.round_weight(weight, config, scale_dtype)
        return tensors.store_rows(codes, scale)

    def build(self, layer: Layer, config: EightBitConfig, dtype: "torch.dtype") -> "torch.nn.Module":
        """See `LinearMethod`."""
        from qtoolkit.kernels import QuantizedLinear

        return QuantizedLinear(self._tensors(layer, config), bias=layer.has_bias, dtype=dtype)

    def transformers_config(self, checkpoint: "Checkpoint", config: EightBitConfig, plan: Plan) -> Any:
        """See `WeightOnlyMethod`: layers are named as in the file."""
        from qtoolkit.methods.rounded_result import result_config

        return result_config(checkpoint, self, config, plan)

    def _tensors(self, layer: Layer, config: EightBitConfig) -> "RowTensors":
        """Return how the layer's weight is stored."""
        import torch

        shape = (layer.out_features, layer.in_features)
        return config.stored_as.byte_tensors_of(config.grid(layer), *shape, dtype=getattr(torch, layer.dtype))

    def _reason(self, layer: Layer, config: EightBitConfig) -> str:
        """Return why a layer is not quantized; empty where it is."""
        if layer.transposed:
            return "a Conv1D, which the format's readers do not take"
        size = _MULTIPLE if config.block is None else config.block[0]
        shape = (layer.out_features, layer.in_features)
        return "" if not any(count % size for count in shape) else f"{list(shape)} is no multiple of {size}"


class FP8Method(EightBitMethod):
    """Round to float8 e4m3fn."""

    config_class = FP8
    title = "FP8"
    summary = "8-bit floating point for weights and inputs (e4m3); no calibration"
    recipes = ({}, {"granularity": "block"})
    offers = (Offer({}, 1.037, readers=_SERVERS),)

    def round_weight(
        self, weight: "torch.Tensor", config: FP8, scale_dtype: "torch.dtype"
    ) -> "tuple[torch.Tensor, torch.Tensor]":
        """See `EightBitMethod`."""
        from qtoolkit.tensor.float8 import float8_quantize

        return float8_quantize(weight, block=config.block, scale_dtype=scale_dtype)


class W8A8Method(EightBitMethod):
    """Round to int8, symmetric."""

    config_class = W8A8
    title = "int8 W8A8"
    summary = "8-bit integers for weights and inputs; no calibration"
    offers = (Offer({}, 1.025, readers=_SERVERS),)

    def round_weight(
        self, weight: "torch.Tensor", config: W8A8, scale_dtype: "torch.dtype"
    ) -> "tuple[torch.Tensor, torch.Tensor]":
        """See `EightBitMethod`."""
        from qtoolkit.tensor.integer_codes import absmax_quantize

        return absmax_quantize(weight, 8, scale_dtype=scale_dtype)


FP8_METHOD = FP8Method()
W8A8_METHOD = W8A8Method()
