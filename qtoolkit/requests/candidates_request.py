"""Define the options of verbs that measure several candidates of one model: on what, where, and where results go."""

from concurrent.futures import Executor
from dataclasses import KW_ONLY, dataclass, field
from os import PathLike
from typing import Any

from qtoolkit.errors import ConfigError
from qtoolkit.requests.executors import RETRIES, refuse_unnamed, resolve_executor
from qtoolkit.requests.model import MODEL, MemoryLimit, ModelSource, OnDevice, WithProgress
from qtoolkit.requests.option_field import describe, option
from qtoolkit.requests.output import OutputFolder
from qtoolkit.requests.text import TextOptions

BASE = describe(f"{MODEL}; a loaded one only without an executor")


@dataclass(frozen=True)
class CandidatesRequest(TextOptions, MemoryLimit, OutputFolder, OnDevice, ModelSource, WithProgress):
    """Hold a model, and how what is made of it is measured."""

    model: Any = field(metadata=BASE)
    _: KW_ONLY
    executor: Executor | None = option(
        None, help="`concurrent.futures.Executor` or Dask client with one job for each config", empty="this process"
    )
    retries: int = option(2, help=RETRIES, unit="times", least=0)
    output: str | PathLike[str] | None = option(
        None, help="folder that each result is saved in", empty="one in your cache", metavar="DIR"
    )
    resume: bool = option(True, help="take the results of an earlier call that was the same", empty="measure anew")

    def __post_init__(self) -> None:
        super().__post_init__()
        resolve_executor(self)
        if self.executor is not None:
            refuse_unnamed(self.model, is_named=self.is_named)
        if self.noise_floor and not self.is_named:
            raise ConfigError("noise_floor=True needs a model that is named: give its folder or Hub id")

    @property
    def is_named(self) -> bool:
        """Check whether the model is given as a Hub id or a path."""
        return isinstance(self.model, str | PathLike)
