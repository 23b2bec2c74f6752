"""Define the options of `qtoolkit.plan`."""

from dataclasses import KW_ONLY, dataclass, field
from os import PathLike
from typing import TYPE_CHECKING, Any

from qtoolkit.requests.for_reader import ForReader
from qtoolkit.requests.model import CONFIG, MODEL, ModelSource, OnDevice, PlannedUse
from qtoolkit.requests.option_field import describe, option
from qtoolkit.requests.output import OutputFolder

if TYPE_CHECKING:
    from qtoolkit.methods import MethodConfig


@dataclass(frozen=True)
class PlanRequest(OutputFolder, ForReader, OnDevice, ModelSource, PlannedUse):
    """Hold a model, a config, and where the result would be made and used."""

    model: Any = field(metadata=describe(f"{MODEL}, or a transformers config alone"))
    config: "MethodConfig | str | Any" = field(metadata=describe(CONFIG))
    _: KW_ONLY
    output: str | PathLike[str] | None = option(
        None, help="folder that would be made", empty="one in the current folder", metavar="DIR"
    )
    batch_size: int = option(1, help="sequences for which using the result is planned", unit="sequences", least=1)
    workers: int | None = option(
        None,
        help="workers of one thread, which would share the job out: what each needs, and how long they take",
        empty="this process",
        unit="workers",
        least=1,
    )
