"""Define the options of `qtoolkit.convert`."""

from concurrent.futures import Executor
from dataclasses import KW_ONLY, dataclass, field
from os import PathLike

from qtoolkit.errors import ConfigError
from qtoolkit.requests.executors import RETRIES, resolve_executor
from qtoolkit.requests.for_reader import ForReader
from qtoolkit.requests.model import HubSource, WithProgress
from qtoolkit.requests.option_field import describe, option


@dataclass(frozen=True)
class ConvertRequest(ForReader, HubSource, WithProgress):
    """Hold a quantized model, the format that it is converted to, and where the result goes."""

    model: str | PathLike[str] = field(metadata=describe("a folder or a Hub id of a quantized model"))
    format: str = field(metadata=describe("format that stores the same codes: `qt.available_formats()` lists them"))
    output: str | PathLike[str] = field(
        metadata=describe("folder to save the result in, which appears when it is complete", "DIR")
    )
    _: KW_ONLY
    lossy: bool = option(
        False,
        help="let a format that has minima instead of zero points round them, where codes are asymmetric; the largest "
        "change is told",
    )
    wider: bool = option(
        False,
        help="let a format without codes of these bits store them in larger ones: the same numbers in more bytes",
    )
    base: str | PathLike[str] | None = option(
        None,
        help="of an adapter: the model that it belongs to, of which the config alone is read",
        empty="the one that the adapter names",
        metavar="MODEL",
    )
    overwrite: bool = option(False, help="replace the output folder when it exists")
    executor: Executor | None = option(
        None,
        help="`concurrent.futures.Executor` or Dask client whose workers share the blocks; they read the model and see "
        "the output folder",
        empty="this process",
    )
    retries: int = option(2, help=RETRIES, unit="times", least=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        resolve_executor(self)
        if not isinstance(self.model, str | PathLike):
            raise ConfigError(
                f"model must be a folder or a Hub id of a quantized model, got {type(self.model).__name__}: "
                "save it first"
            )
        if not isinstance(self.format, str):
            raise ConfigError(f"format must be the name of a format, got {self.format!r:.40}")
