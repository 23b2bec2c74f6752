"""Define the options of verbs that measure several candidates of one model: on what, where, and where results go."""

from concurrent.futures import Executor
from dataclasses import KW_ONLY, dataclass, field
from os import PathLike
from typing import Any

from qtoolkit.errors import ConfigError
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
        None, help="`concurrent.futures.Executor` with one job for each config", empty="this process"
    )
    retries: int = option(2, help="how often a job is begun again when its worker is lost", unit="times", least=0)
    output: str | PathLike[str] | None = option(
        None, help="folder that each result is saved in", empty="one in your cache", metavar="DIR"
    )
    resume: bool = option(True, help="take the results of an earlier call that was the same", empty="measure anew")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.executor is not None and not isinstance(self.executor, Executor):
            raise ConfigError(
                f"executor must be a concurrent.futures.Executor, got {type(self.executor).__name__}: "
                "of a Dask client give client.get_executor()"
            )
        if self.executor is not None and not self.is_named:
            raise ConfigError(
                "executor= needs a model that workers can read: name its folder or Hub id, not a "
                f"{type(self.model).__name__}"
            )
        if self.noise_floor and not self.is_named:
            raise ConfigError("noise_floor=True needs a model that is named: give its folder or Hub id")

    @property
    def is_named(self) -> bool:
        """Check whether the model is given as a Hub id or a path."""
        return isinstance(self.model, str | PathLike)
