"""NF4: 4-bit codes whose 16 levels are quantiles of a normal distribution (QLoRA, arXiv 2305.14314, section 3)."""

from dataclasses import dataclass
from typing import ClassVar

from qtoolkit.methods._bitsandbytes import FourBitConfig, FourBitMethod
from qtoolkit.methods._method import Offer


@dataclass(frozen=True, kw_only=True)
class NF4(FourBitConfig):
    """4-bit NormalFloat in blocks of 64 weights, by bitsandbytes.

    Bits per weight: 4 + 32/64 = 4.5; with `double_quant` 4 + 8/64 + 32/(64 * 256) = 4.127, tables aside.
    """

    method: ClassVar[str] = "nf4"


class NF4Method(FourBitMethod):
    """NF4 as a method."""

    config_class = NF4
    title = "NF4"
    offers = (Offer({}, 1.222, "transformers and vLLM with bitsandbytes"),)
    summary = "4-bit NormalFloat, blocks of 64 (QLoRA); no calibration"


METHOD = NF4Method()
