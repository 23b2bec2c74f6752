"""Which method, for a memory that one has."""

from dataclasses import dataclass
from typing import ClassVar

from qtoolkit.records.base import Record, Row
from qtoolkit.units import format_bits, format_bytes


@dataclass(frozen=True)
class Candidate(Record):
    """One model in one form.

    Attributes:
        model: what the user called it.
        config: how it would be quantized, as it is written in a call; "full precision" when it would not.
        num_parameters: of the model.
        bits_per_weight: of the whole model in memory.
        footprint: bytes of the model.
        memory: bytes that using it takes at most, on the device that it would live on.
        disk: bytes of its weight files.
        fits: whether using it fits.
        can_be_made: whether making it fits, too.
        perplexity_ratio: of its perplexity to that of full precision; None where nothing was measured.
        quality: where that figure is from.
        served_by: what runs its files, beside qtoolkit.
    """

    schema_version: ClassVar[int] = 1

    model: str
    config: str
    num_parameters: int
    bits_per_weight: float
    footprint: int
    memory: int
    disk: int
    fits: bool
    can_be_made: bool
    perplexity_ratio: float | None
    quality: str
    served_by: str

    def rows(self) -> tuple[Row, ...]:
        state = "fits" if self.fits else "does not fit"
        if self.fits and not self.can_be_made:
            state = "fits, but is made on a larger machine"
        quality = f"perplexity {self.perplexity_ratio:.3f} times" if self.perplexity_ratio else "quality not measured"
        sizes = f"{format_bytes(self.memory)} to use, {format_bits(self.bits_per_weight)}"
        return (Row(f"{self.model} {self.config}", f"{sizes}, {state}", f"{quality}; {self.served_by}"),)


@dataclass(frozen=True)
class Recommendation(Record):
    """What to take, the best first.

    Attributes:
        goal: "quality", "size" or "speed".
        memory: bytes that using the model may take.
        machine: the machine's name.
        candidates: what was looked at: those that fit, the best first, then the others.
        reason: by what they were put in order.
        notes: what the figures do not tell.
    """

    schema_version: ClassVar[int] = 1

    goal: str
    memory: int
    machine: str
    candidates: tuple[Candidate, ...]
    reason: str
    notes: tuple[str, ...] = ()

    @property
    def best(self) -> Candidate | None:
        """The first that fits; None where none does."""
        return next((candidate for candidate in self.candidates if candidate.fits), None)

    def rows(self) -> tuple[Row, ...]:
        best = self.best
        return (
            Row("goal", self.goal, self.reason),
            Row("memory", format_bytes(self.memory), self.machine),
            Row("take", f"{best.model} {best.config}" if best else "none of these fits"),
            *(row for candidate in self.candidates for row in candidate.rows()),
            *(Row("note", note) for note in self.notes),
        )
