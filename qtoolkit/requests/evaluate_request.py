"""Define the options of `qtoolkit.evaluate`."""

from dataclasses import KW_ONLY, dataclass, field
from typing import Any

from qtoolkit.requests.model import MODEL, ModelSource, OnDevice, WithProgress
from qtoolkit.requests.option_field import describe, option
from qtoolkit.requests.text import TextOptions


@dataclass(frozen=True)
class EvaluateRequest(TextOptions, OnDevice, ModelSource, WithProgress):
    """Hold a model, what it is compared with, and the text."""

    model: Any = field(metadata=describe(f"{MODEL}, a `QuantizedModel`, or an object with `logits(input_ids)`"))
    _: KW_ONLY
    base: Any | None = option(
        None, help="what it was made from, to measure what was lost", empty="perplexity alone", metavar="MODEL"
    )
