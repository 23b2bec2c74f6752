"""Quantize to NF4, FP4 and LLM.int8(), with layers of bitsandbytes that transformers builds and reads back.

Layouts: bitsandbytes 0.50 `functional.QuantState.as_dict` and `nn.Linear8bitLt`; transformers `quantizer_bnb_4bit.py`.
"""

from abc import abstractmethod
from dataclasses import dataclass, replace
from math import ceil
from typing import TYPE_CHECKING, Any, ClassVar

from qtoolkit.errors import ConfigError
from qtoolkit.formats import Layer, get_format, patched_modules
from qtoolkit.formats.bitsandbytes import config_with_experts, note_on_cpu
from qtoolkit.methods.config import MethodConfig
from qtoolkit.methods.method import Offer
from qtoolkit.methods.weight_only import WeightOnlyMethod
from qtoolkit.optional import optional
from qtoolkit.records import LayerPlan, Plan
from qtoolkit.requests import option

if TYPE_CHECKING:
    from transformers import BitsAndBytesConfig, PreTrainedModel

    from qtoolkit.models.checkpoint import Checkpoint
    from qtoolkit.noted import Noted

# Weights that share a scale, and scales that share a scale of their own with double quantization.
_BLOCK_SIZE = 64
_NESTED_BLOCK_SIZE = 256
# 16 levels of the type, and with double quantization 256 levels of the scales and their mean; float32 each.
_TABLE_BYTES = 16 * 4
_NESTED_TABLE_BYTES = 256 * 4 + 4
# The classes of linear layers that transformers replaces, not their subclasses (`replace_with_bnb_linear`), and that of
# Falcon, which our loader makes plain before.
_REPLACED = ("Linear", "Conv1D", "FalconLinear")
# bitsandbytes' description of a layer in the file: JSON of about this many bytes.
_QUANT_STATE_BYTES = 170


@dataclass(frozen=True, kw_only=True)
class FourBitConfig(MethodConfig):
    """Base of the configs of bitsandbytes' 4-bit types.

    Bits per weight: 4 + 32/64 = 4.5; with `double_quant` 4 + 8/64 + 32/(64 * 256) = 4.127, tables aside.
    """

    format: ClassVar[str] = "bitsandbytes"

    double_quant: bool = option(
        True,
        help="store the scales, one for 64 weights, in 8 bits too: 0.37 bits per weight less",
    )
    compute_dtype: str = option(
        "auto",
        choices=("auto", "bfloat16", "float16", "float32"),
        help="type of number to calculate with; auto is the model's own, 16-bit on a GPU",
    )


@dataclass(frozen=True, kw_only=True)
class NF4(FourBitConfig):
    """4-bit NormalFloat in blocks of 64 weights, by bitsandbytes.

    The 16 levels are quantiles of a normal distribution (QLoRA, arXiv 2305.14314, section 3). 4.127 bits per weight
    with `double_quant`, 4.5 without.
    """

    method: ClassVar[str] = "nf4"


@dataclass(frozen=True, kw_only=True)
class FP4(FourBitConfig):
    """4-bit floating point in blocks of 64 weights, by bitsandbytes.

    1 sign, 2 exponent and 1 mantissa bits (E2M1; QLoRA, arXiv 2305.14314, table 2). 4.127 bits per weight with
    `double_quant`, 4.5 without.
    """

    method: ClassVar[str] = "fp4"


@dataclass(frozen=True, kw_only=True)
class Int8(MethodConfig):
    """LLM.int8() by bitsandbytes: 8 bits a weight and a float32 scale an output.

    Outlier inputs are multiplied in 16 bits (arXiv 2208.07339, section 3).
    """

    method: ClassVar[str] = "int8"
    format: ClassVar[str] = "bitsandbytes"

    threshold: float = option(
        6.0,
        help="input features with a magnitude above it are computed in 16 bits; 0 for none",
        unit="activation magnitude",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.threshold < float("inf"):
            raise ConfigError(f"Int8: threshold must be 0 or more, got {self.threshold}; 6.0 is the paper's")


class BitsAndBytesMethod(WeightOnlyMethod):
    """Base of the methods that bitsandbytes runs."""

    requires = ("bitsandbytes",)
    leaves_experts_apart = True
    takes_called_when_marked = True

    @abstractmethod
    def transformers_options(self, config: Any) -> dict[str, Any]:
        """Return the config as the options of transformers' `BitsAndBytesConfig`."""

    @abstractmethod
    def plan_replaced(self, layer: Layer, config: Any) -> LayerPlan:
        """Return the plan of a linear layer that transformers replaces, as `plan_layer`."""

    def plan_layer(self, layer: Layer, config: Any) -> LayerPlan:
        """See `Method`: skip a layer of a class that transformers does not replace."""
        if layer.keeps_type:
            return layer.left_alone("the model keeps it in float32, where transformers puts no layer of bitsandbytes")
        if layer.is_misread:
            return layer.left_alone("transformers saves its codes, and does not find them again by such a name")
        if layer.is_split:
            return layer.left_alone("files keep it in one with others, where transformers loses what describes codes")
        if layer.kind in _REPLACED:
            return self.plan_replaced(layer, config)
        return layer.left_alone(f"transformers puts no layer of bitsandbytes in the place of a {layer.kind}")

    def transformers_config(self, checkpoint: "Checkpoint", config: Any, plan: Plan) -> "BitsAndBytesConfig":
        """See `WeightOnlyMethod`."""
        from transformers import BitsAndBytesConfig

        from qtoolkit.models.structure import has_own_class, is_linear

        optional("bitsandbytes", f"method {self.name!r}")
        linear = {name for name, module in checkpoint.skeleton.named_modules() if is_linear(module)}
        # Experts in whose place transformers reads linear layers, quantized or not.
        patched = tuple(
            f"{name}." for name in patched_modules(checkpoint.skeleton, get_format(config.format).quant_method)
        )
        skipped = [layer.name for layer in plan.skipped if layer.name in linear or f"{layer.name}.".startswith(patched)]
        options = {**self.transformers_options(config), "llm_int8_skip_modules": skipped}
        is_plain = not patched and not any(map(has_own_class, checkpoint.skeleton.modules()))
        return BitsAndBytesConfig(**options) if is_plain else config_with_experts(options)

    def load(self, checkpoint: "Checkpoint", *, device: str) -> "Noted[PreTrainedModel]":
        """See `Planner`."""
        from qtoolkit.formats.bitsandbytes import load_layers

        return load_layers(checkpoint, device=device)

    def prepare(self, model: "PreTrainedModel") -> None:
        """See `Method`: let 4-bit layers be saved exactly."""
        from qtoolkit.formats.bitsandbytes import keep_exact

        keep_exact(model)


class FourBitMethod(BitsAndBytesMethod):
    """Base of NF4 and FP4: blocks of 64 weights, each with a scale that may be quantized again in blocks of 256."""

    code_bits = 4
    splits_experts = True

    def resolve(self, config: FourBitConfig, dtype: str, device: str) -> MethodConfig:
        """See `Method`: decide `compute_dtype`."""
        if config.compute_dtype != "auto":
            return config
        if dtype == "float32" and device.startswith("cuda"):
            import torch

            # A plan for another machine's GPU is made where there is none: every GPU computes in float16.
            is_new = torch.cuda.is_available() and torch.cuda.get_device_capability(device) >= (8, 0)
            dtype = "bfloat16" if is_new else "float16"
        return replace(config, compute_dtype=dtype)

    def notes(self, config: Any, layers: tuple[LayerPlan, ...]) -> tuple[str, ...]:
        """See `Planner`: tell which layers some processors run with qtoolkit alone."""
        note = note_on_cpu({layer.name: layer.shape for layer in layers})
        return (note,) if note else ()

    def plan_replaced(self, layer: Layer, config: FourBitConfig) -> LayerPlan:
        """See `BitsAndBytesMethod`."""
        blocks = ceil(layer.num_weights / _BLOCK_SIZE)
        # The offset of the nested scales is stored in the description, not as a tensor.
        offset = 4 if config.double_quant else 0
        if config.double_quant:
            scales = blocks + 4 * ceil(blocks / _NESTED_BLOCK_SIZE) + _NESTED_TABLE_BYTES
        else:
            scales = 4 * blocks
        stored = ceil(layer.num_weights / 2) + scales + _TABLE_BYTES
        disk = stored + _QUANT_STATE_BYTES - offset
        # A float32 copy, the scaled copy and the codes before packing: bitsandbytes backends/default/ops.py.
        return layer.replaced(stored, disk_bytes=disk, working_bytes=13 * layer.num_weights + stored)

    def transformers_config(self, checkpoint: "Checkpoint", config: FourBitConfig, plan: Plan) -> "BitsAndBytesConfig":
        """See `WeightOnlyMethod`: experts become layers, where some of them are planned."""
        from qtoolkit.models.experts_apart import are_of_experts
        from qtoolkit.models.renaming import matrices_in_file
        from qtoolkit.models.structure import is_embedding

        planned = {layer.name for layer in plan.layers}
        stored_as = super().transformers_config(checkpoint, config, plan)
        if not are_of_experts(checkpoint.skeleton, planned):
            return stored_as
        # Routers too: transformers 4, which reads such files, has linear layers in their place.
        named = matrices_in_file(checkpoint.skeleton, checkpoint.tensors, experts_apart=True)
        embeddings = {name for name, module in checkpoint.skeleton.named_modules() if is_embedding(module)}
        left = {stored for stored, name in named.items() if name not in planned | embeddings}
        skipped = sorted(left.union(stored_as.llm_int8_skip_modules or ()))
        return config_with_experts({**self.transformers_options(config), "llm_int8_skip_modules": skipped})

    def transformers_options(self, config: FourBitConfig) -> dict[str, Any]:
        """See `BitsAndBytesMethod`."""
        return {
            "load_in_4bit": True,
            "bnb_4bit_quant_type": config.method,
            "bnb_4bit_use_double_quant": config.double_quant,
            "bnb_4bit_compute_dtype": config.compute_dtype,
        }


class NF4Method(FourBitMethod):
    """Quantize to 4-bit NormalFloat."""

    config_class = NF4
    title = "NF4"
    offers = (Offer({}, 1.222),)
    recipes = ({}, {"double_quant": False})
    summary = "4-bit NormalFloat, blocks of 64 (QLoRA); no calibration"


class FP4Method(FourBitMethod):
    """Quantize to 4-bit floating point."""

    config_class = FP4
    title = "FP4"
    summary = "4-bit floating point, blocks of 64; no calibration"


class Int8Method(BitsAndBytesMethod):
    """Quantize to LLM.int8()."""

    config_class = Int8
    title = "LLM.int8()"
    code_bits = 8
    offers = (Offer({}, 1.019, in_one_step=False),)
    summary = "8-bit codes, outlier inputs in 16 bits (LLM.int8()); no calibration"

    def plan_replaced(self, layer: Layer, config: Int8) -> LayerPlan:
        """See `BitsAndBytesMethod`."""
        stored = layer.num_weights + 4 * layer.out_features
        # A float16 copy, its magnitudes and the scaled copy, and one byte in the file that names the row layout.
        return layer.replaced(stored, disk_bytes=stored + 1, working_bytes=10 * layer.num_weights + stored)

    def transformers_options(self, config: Int8) -> dict[str, Any]:
        """See `BitsAndBytesMethod`."""
        return {"load_in_8bit": True, "llm_int8_threshold": config.threshold}


NF4_METHOD = NF4Method()
FP4_METHOD = FP4Method()
INT8_METHOD = Int8Method()
