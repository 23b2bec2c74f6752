"""zero_point: the range from least to largest weight is laid over all codes (arXiv 2208.07339, section 2)."""

from dataclasses import dataclass
from typing import ClassVar

from qtoolkit.methods._affine import AffineConfig, AffineMethod


@dataclass(frozen=True, kw_only=True)
class ZeroPoint(AffineConfig):
    """Asymmetric rounding: scale = (max - min) / (q_max - q_min), zero_point = round(q_min - min / scale)."""

    method: ClassVar[str] = "zero_point"


class ZeroPointMethod(AffineMethod):
    """zero_point as a method."""

    config_class = ZeroPoint
    title = "zero-point"
    summary = "asymmetric rounding, 8 or 4 bits (textbook); no calibration"
    symmetric = False


METHOD = ZeroPointMethod()
