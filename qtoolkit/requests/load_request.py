"""Define the options of `qtoolkit.load`."""

from dataclasses import KW_ONLY, dataclass, field
from os import PathLike
from typing import TYPE_CHECKING

from qtoolkit.requests.model import ModelSource, OnDevice
from qtoolkit.requests.option_field import describe, option

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class LoadRequest(OnDevice, ModelSource):
    """Hold a saved model, and how it is loaded."""

    model: str | PathLike[str] = field(metadata=describe("a folder or a Hub id"))
    _: KW_ONLY
    dtype: "str | torch.dtype" = option(
        "auto", help="type of what is not quantized: auto for the checkpoint's own, bfloat16, float16 or float32"
    )
