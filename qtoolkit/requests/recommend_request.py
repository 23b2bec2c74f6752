"""Define the options of `qtoolkit.recommend`."""

from dataclasses import KW_ONLY, dataclass, field
from typing import Any

from qtoolkit.errors import ConfigError
from qtoolkit.requests.for_reader import ForReader
from qtoolkit.requests.model import HubSource, MemoryLimit, OnDevice, PlannedUse
from qtoolkit.requests.option_field import describe, option


@dataclass(frozen=True)
class RecommendRequest(MemoryLimit, ForReader, OnDevice, PlannedUse, HubSource):
    """Hold the models to choose from, and what the choice must fit."""

    model: Any | list[Any] = field(metadata=describe("what `plan` takes, or a list of such to be compared"))
    _: KW_ONLY
    goal: str = option("quality", help="what the best one is best at", choices=("quality", "size", "speed"))

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.model, list | tuple) and not self.model:
            raise ConfigError("model is an empty list: give at least one")
