"""int8: LLM.int8(), 8-bit codes with a scale an output, outlier inputs in 16 bits (arXiv 2208.07339, section 3)."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from qtoolkit.errors import ConfigError
from qtoolkit.formats import Layer
from qtoolkit.methods._bitsandbytes import BitsAndBytesMethod
from qtoolkit.methods._config import MethodConfig
from qtoolkit.methods._method import Offer
from qtoolkit.records import LayerPlan
from qtoolkit.requests import option

if TYPE_CHECKING:
    from transformers import BitsAndBytesConfig


@dataclass(frozen=True, kw_only=True)
class Int8(MethodConfig):
    """LLM.int8() by bitsandbytes: 8 bits a weight and a float32 scale an output."""

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


class Int8Method(BitsAndBytesMethod):
    """LLM.int8() as a method."""

    config_class = Int8
    title = "LLM.int8()"
    code_bits = 8
    offers = (Offer({}, 1.019, "transformers with bitsandbytes", in_one_step=False),)
    summary = "8-bit codes, outlier inputs in 16 bits (LLM.int8()); no calibration"

    def plan_layer(self, layer: Layer, config: Any) -> LayerPlan:
        stored = layer.num_weights + 4 * layer.out_features
        # A float16 copy, its magnitudes and the scaled copy, and one byte in the file that names the row layout.
        return layer.replaced(stored, disk_bytes=stored + 1, working_bytes=10 * layer.num_weights + stored)

    def transformers_config(self, config: Any, skipped: list[str]) -> "BitsAndBytesConfig":
        from transformers import BitsAndBytesConfig

        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_threshold=config.threshold, llm_int8_skip_modules=skipped)


METHOD = Int8Method()
