"""FP4: 4-bit floating point, 1 sign, 2 exponent and 1 mantissa bits (E2M1; QLoRA, arXiv 2305.14314, table 2)."""

from dataclasses import dataclass
from typing import ClassVar

from qtoolkit.methods._bitsandbytes import FourBitConfig, FourBitMethod


@dataclass(frozen=True, kw_only=True)
class FP4(FourBitConfig):
    """4-bit floating point in blocks of 64 weights, by bitsandbytes.

    Bits per weight: 4 + 32/64 = 4.5; with `double_quant` 4 + 8/64 + 32/(64 * 256) = 4.127, tables aside.
    """

    method: ClassVar[str] = "fp4"


class FP4Method(FourBitMethod):
    """FP4 as a method."""

    config_class = FP4
    title = "FP4"
    summary = "4-bit floating point, blocks of 64; no calibration"


METHOD = FP4Method()
