"""Hold a result together with notes on how it was produced."""

from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Noted(Generic[T]):
    """Hold the result of a step, and what a reader of the job's report has to know of it.

    Attributes:
        value: the result.
        notes: what was decided, left out or could not be done, one line each.
    """

    value: T
    notes: tuple[str, ...] = ()
