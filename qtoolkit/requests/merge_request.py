"""Define the options of `qtoolkit.merge`."""

from dataclasses import KW_ONLY, dataclass, field
from os import PathLike
from typing import Any

from qtoolkit.requests.model import CONFIG, HubSource, OnDevice, WithProgress
from qtoolkit.requests.option_field import describe, option
from qtoolkit.requests.output import OutputFolder, Resumable


@dataclass(frozen=True)
class MergeRequest(OutputFolder, Resumable, OnDevice, HubSource, WithProgress):
    """Hold a quantized model, an adapter that was trained on it, and how both become one model."""

    model: Any = field(metadata=describe("a folder or a Hub id of a quantized model, or a `QuantizedModel`"))
    adapter: str | PathLike[str] = field(metadata=describe("folder of a LoRA adapter, as peft saves it", "DIR"))
    _: KW_ONLY
    config: Any | None = option(None, help=CONFIG, empty="the recipe in the model's receipt", metavar="CONFIG")
    base: str | PathLike[str] | None = option(
        None,
        help="folder or Hub id of the full-precision model",
        empty="the one that the model's receipt names",
        metavar="MODEL",
    )
