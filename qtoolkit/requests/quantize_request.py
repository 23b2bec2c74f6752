"""Define the options of `qtoolkit.quantize`."""

from concurrent.futures import Executor
from dataclasses import KW_ONLY, dataclass, field
from os import PathLike
from typing import TYPE_CHECKING, Any

from qtoolkit.errors import ConfigError
from qtoolkit.requests.executors import RETRIES, refuse_unnamed, resolve_executor
from qtoolkit.requests.for_reader import ForReader
from qtoolkit.requests.model import CONFIG, MODEL, ModelSource, OnDevice, WithProgress
from qtoolkit.requests.option_field import describe, option
from qtoolkit.requests.output import OutputFolder, Resumable

if TYPE_CHECKING:
    from qtoolkit.methods import MethodConfig


@dataclass(frozen=True)
class QuantizeRequest(OutputFolder, ForReader, Resumable, OnDevice, ModelSource, WithProgress):
    """Hold a model, a config, and how the job is done."""

    model: Any = field(metadata=describe(f"{MODEL}, which stays as it is"))
    config: "MethodConfig | str | Any" = field(metadata=describe(CONFIG))
    _: KW_ONLY
    executor: Executor | None = option(
        None,
        help="`concurrent.futures.Executor` or Dask client whose workers share the shards of a calibrated job; "
        "they read the model and see the output folder",
        empty="this process",
    )
    retries: int = option(2, help=RETRIES, unit="times", least=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        resolve_executor(self)
        if self.executor is None:
            return
        refuse_unnamed(self.model, is_named=self.is_named)
        if self.output is None:
            raise ConfigError("executor= needs output=, a folder that all workers see: they leave tensors beside it")

    @property
    def is_named(self) -> bool:
        """Check whether the model is given as a Hub id or a path."""
        return isinstance(self.model, str | PathLike)
