"""What `qtoolkit.evaluate` is asked for."""

from dataclasses import KW_ONLY, dataclass, field
from typing import Any

from qtoolkit.requests.field import describe, option
from qtoolkit.requests.model import MODEL, ModelSource, OnDevice, WithProgress
from qtoolkit.requests.text import TextOptions


@dataclass(frozen=True)
class EvaluateRequest(TextOptions, OnDevice, ModelSource, WithProgress):
    """Hold a model, what it is compared with, and the text."""

    model: Any = field(
        metadata=describe(
            f"a `QuantizedModel`, {MODEL}; or an object whose `logits(input_ids: int64[1, seq_len])` gives "
            "[1, seq_len, vocabulary]"
        )
    )
    _: KW_ONLY
    base: Any | None = option(
        None, help="model that it was made from, to measure what was lost", empty="perplexity alone", metavar="MODEL"
    )
    speed: bool = option(
        True, help="measure too how fast the model reads and writes, where it is loaded", empty="measure quality alone"
    )
