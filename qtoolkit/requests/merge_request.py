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
    into_codes: bool = option(
        False,
        help="add the adapter to the quantized weights themselves, whose codes are rounded anew, and tell what is lost",
        empty="quantize the sum of base and adapter",
    )
    text: Any = option(
        None,
        help="text to measure on: model and adapter kept apart, and merged",
        empty="measure nothing",
        metavar="TEXT",
    )
    seq_len: int = option(512, help="tokens of a window that is measured", unit="tokens", least=2)
    num_tokens: int = option(4096, help="tokens of the text to measure on", unit="tokens", least=2)
