"""How much of a GPU's memory a calibration takes, and what it goes on with where that runs out."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Self, TypeVar

import torch

from qtoolkit.measure.malloc import give_memory_back

_Result = TypeVar("_Result")


@dataclass(frozen=True)
class MemorySetting:
    """What of the samples is on the device at one time.

    Attributes:
        states: the device on which hidden states wait from one block to the next, "cpu" or "cuda:0".
        at_once: samples that run through a block in one batch.
    """

    states: str
    at_once: int

    def smaller(self) -> Self | None:
        """Return the next setting that takes less of a GPU's memory; None where there is none."""
        if self.states != "cpu":
            return replace(self, states="cpu")
        return replace(self, at_once=self.at_once // 2) if self.at_once > 1 else None

    def __str__(self) -> str:
        """Return the words for a note."""
        where = "main memory" if self.states == "cpu" else f"the memory of {self.states}"
        return f"hidden states in {where} and {self.at_once} at one time"


def with_less_memory(
    run: Callable[[MemorySetting], _Result], setting: MemorySetting, on_less: Callable[[str], None]
) -> _Result:
    """Return the result of a job; where a GPU's memory runs out, it runs again with the next smaller setting.

    Args:
        run: the job, which goes on with what it has stored.
        setting: to begin with.
        on_less: called with a note each time.

    Raises:
        torch.OutOfMemoryError: with the smallest setting, too.
    """
    while True:
        smaller = setting.smaller()
        try:
            return run(setting)
        except torch.OutOfMemoryError:
            if smaller is None:
                raise
        # Here the frames of the error hold nothing any more.
        give_memory_back()
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()
        on_less(f"the GPU's memory ran out with {setting}: the job went on with {smaller}")
        setting = smaller
