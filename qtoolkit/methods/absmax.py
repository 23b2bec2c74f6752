"""absmax: codes are the weight divided by its largest magnitude (LLM.int8(), arXiv 2208.07339, section 2)."""

from dataclasses import dataclass
from typing import ClassVar

from qtoolkit.methods._affine import AffineConfig, AffineMethod


@dataclass(frozen=True, kw_only=True)
class AbsMax(AffineConfig):
    """Symmetric rounding: scale = max|w| / (2**(bits-1) - 1), code = round(w / scale)."""

    method: ClassVar[str] = "absmax"


class AbsMaxMethod(AffineMethod):
    """absmax as a method."""

    config_class = AbsMax
    summary = "symmetric rounding, 8 or 4 bits (textbook); no calibration"
    symmetric = True


METHOD = AbsMaxMethod()
