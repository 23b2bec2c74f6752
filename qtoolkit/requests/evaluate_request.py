"""Define the options of `qtoolkit.evaluate`."""

from concurrent.futures import Executor
from dataclasses import KW_ONLY, dataclass, field
from os import PathLike
from typing import Any

from qtoolkit.requests.executors import RETRIES, refuse_unnamed, resolve_executor
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
    executor: Executor | None = option(
        None,
        help="`concurrent.futures.Executor` or Dask client whose workers share the windows of the text; they read "
        "the models themselves",
        empty="this process",
    )
    retries: int = option(2, help=RETRIES, unit="times", least=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        resolve_executor(self)
        if self.executor is None:
            return
        for model in (self.model, *([] if self.base is None else [self.base])):
            refuse_unnamed(model, is_named=isinstance(model, str | PathLike))
