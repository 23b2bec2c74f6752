"""What `qtoolkit.recommend` is asked for."""

from dataclasses import KW_ONLY, dataclass, field
from typing import Any

from qtoolkit.errors import ConfigError
from qtoolkit.requests.field import describe, option
from qtoolkit.requests.model import HubSource, MemoryLimit, OnDevice, PlannedUse

GOALS = ("quality", "size", "speed")


@dataclass(frozen=True)
class RecommendRequest(MemoryLimit, OnDevice, PlannedUse, HubSource):
    """Hold the models to choose from, and what the choice must fit."""

    model: Any | list[Any] = field(
        metadata=describe(
            "what `plan` takes, or a list of such to be compared: a larger one quantized against a smaller one as it is"
        )
    )
    _: KW_ONLY
    goal: str = option("quality", help="what the best one is best at", choices=GOALS, metavar="NAME")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.goal not in GOALS:
            raise ConfigError(f"goal must be one of {', '.join(GOALS)}, got {self.goal!r:.40}")
