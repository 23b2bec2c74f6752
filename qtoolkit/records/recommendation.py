"""Record which models and methods suit a given amount of memory."""

from dataclasses import dataclass

from qtoolkit.records.base import Record, Row, note_rows
from qtoolkit.units import format_bits, format_bytes


@dataclass(frozen=True)
class Candidate(Record):
    """Describe one model quantized by one config, as a candidate of a recommendation.

    Attributes:
        model: the user's name for the model.
        config: how it would be quantized, as it is written in a call; "full precision" if not at all.
        num_parameters: of the model.
        bits_per_weight: of the whole model in memory.
        footprint: bytes of the model.
        memory: the most bytes that using it takes, on the device where it would run.
        disk: bytes of its weight files.
        fits: whether using it fits the memory.
        can_be_made: whether quantizing it fits, too.
        perplexity_ratio: of its perplexity to that of full precision; None if it was not measured.
        quality: where that figure is from.
        served_by: programs other than qtoolkit that run its files.
    """

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
    """Rank candidates for a goal, the best first.

    Attributes:
        goal: "quality", "size" or "speed".
        memory: bytes that using the model may take.
        machine: the machine's name.
        candidates: all candidates: those that fit, the best first, then the others.
        reason: how they were ordered.
        notes: limits of these figures.
    """

    goal: str
    memory: int
    machine: str
    candidates: tuple[Candidate, ...]
    reason: str
    notes: tuple[str, ...] = ()

    @property
    def best(self) -> Candidate | None:
        """Return the first candidate that fits; None if none does."""
        return next((candidate for candidate in self.candidates if candidate.fits), None)

    def rows(self) -> tuple[Row, ...]:
        best = self.best
        unread = "none: the program loads none of the results that are compared here; a plan for it names what it loads"
        none = "none of these fits" if self.candidates else unread
        return (
            Row("goal", self.goal, self.reason),
            Row("memory", format_bytes(self.memory), self.machine),
            Row("take", f"{best.model} {best.config}" if best else none),
            *(row for candidate in self.candidates for row in candidate.rows()),
            *note_rows(self.notes),
        )
