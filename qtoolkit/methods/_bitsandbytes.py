"""What NF4, FP4 and int8 share: bitsandbytes' layers, put in place by transformers, which also reads them back.

Layouts: bitsandbytes 0.50 `functional.QuantState.as_dict` and `nn.Linear8bitLt`; transformers `quantizer_bnb_4bit.py`.
"""

from dataclasses import dataclass, replace
from math import ceil
from typing import TYPE_CHECKING, Any, ClassVar

from qtoolkit.formats import Layer
from qtoolkit.methods._config import MethodConfig
from qtoolkit.methods._method import Method, Outcome
from qtoolkit.optional import optional
from qtoolkit.records import LayerPlan, OnProgress, Plan
from qtoolkit.requests import option

if TYPE_CHECKING:
    from transformers import BitsAndBytesConfig, PreTrainedModel

    from qtoolkit.models import Checkpoint
    from qtoolkit.stream import JournalPlace

BLOCK_SIZE = 64
NESTED_BLOCK_SIZE = 256
# 16 levels of the type, and with double quantization 256 levels of the scales and their mean; float32 each.
TABLE_BYTES, NESTED_TABLE_BYTES = 16 * 4, 256 * 4 + 4
# bitsandbytes' description of a layer in the file: JSON of about this many bytes.
QUANT_STATE_BYTES = 170


@dataclass(frozen=True, kw_only=True)
class FourBitConfig(MethodConfig):
    """The options of bitsandbytes' 4-bit types."""

    format: ClassVar[str] = "bitsandbytes"

    double_quant: bool = option(True, help="quantize the scales too: 0.37 bits per weight less")
    compute_dtype: str = option(
        "auto",
        choices=("auto", "bfloat16", "float16", "float32"),
        help="type that weights are expanded to for each product; auto is the model's own, 16-bit on a GPU",
    )


class BitsAndBytesMethod(Method):
    """Base of the methods that bitsandbytes runs."""

    requires = ("bitsandbytes",)

    def transformers_config(self, config: Any, skipped: list[str]) -> "BitsAndBytesConfig":
        """The config in transformers' words; `skipped` are the full names of linear layers that stay."""
        raise NotImplementedError

    def quantize(
        self,
        checkpoint: "Checkpoint",
        config: Any,
        plan: Plan,
        on_progress: OnProgress,
        journal: "JournalPlace | None" = None,
    ) -> Outcome:
        from qtoolkit.models.structure import is_linear
        from qtoolkit.stream import load_streamed

        optional("bitsandbytes", f"method {self.name!r}")
        linear = {name for name, module in checkpoint.skeleton.named_modules() if is_linear(module)}
        skipped = [layer.name for layer in plan.skipped if layer.name in linear]
        settings = self.transformers_config(config, skipped)
        loaded = load_streamed(checkpoint, settings, device=plan.device, on_progress=on_progress)
        return Outcome(loaded.value, notes=loaded.notes)

    def prepare(self, model: "PreTrainedModel") -> None:
        from qtoolkit.formats.bitsandbytes import keep_exact

        keep_exact(model)


class FourBitMethod(BitsAndBytesMethod):
    """NF4 and FP4: blocks of 64 weights, each with a scale that may be quantized again in blocks of 256."""

    code_bits = 4

    def resolve(self, config: Any, dtype: str, device: str) -> MethodConfig:
        assert isinstance(config, FourBitConfig)
        if config.compute_dtype != "auto":
            return config
        if dtype == "float32" and device.startswith("cuda"):
            import torch

            # A plan for another machine's GPU is made where there is none: every GPU computes in float16.
            here = torch.cuda.is_available()
            dtype = "bfloat16" if here and torch.cuda.get_device_capability(device) >= (8, 0) else "float16"
        return replace(config, compute_dtype=dtype)

    def plan_layer(self, layer: Layer, config: Any) -> LayerPlan:
        if layer.device == "cpu" and (layer.out_features % 32 or layer.in_features % BLOCK_SIZE):
            shape = f"[{layer.out_features}, {layer.in_features}]"
            return layer.left_alone(f"bitsandbytes on a CPU needs outputs % 32 = 0 and inputs % 64 = 0, not {shape}")
        blocks = ceil(layer.num_weights / BLOCK_SIZE)
        scales = blocks + 4 * ceil(blocks / NESTED_BLOCK_SIZE) if config.double_quant else 4 * blocks
        tables = TABLE_BYTES + (NESTED_TABLE_BYTES if config.double_quant else 0)
        stored = ceil(layer.num_weights / 2) + scales + tables
        # The offset of the nested scales stands in the description, not as a tensor.
        disk = stored + QUANT_STATE_BYTES - (4 if config.double_quant else 0)
        # A float32 copy, the scaled copy and the codes before packing: bitsandbytes backends/default/ops.py.
        return layer.replaced(stored, disk_bytes=disk, working_bytes=13 * layer.num_weights + stored)

    def transformers_config(self, config: Any, skipped: list[str]) -> "BitsAndBytesConfig":
        from transformers import BitsAndBytesConfig

        return BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type=config.method,
            bnb_4bit_use_double_quant=config.double_quant,
            bnb_4bit_compute_dtype=config.compute_dtype,
            llm_int8_skip_modules=skipped,
        )
