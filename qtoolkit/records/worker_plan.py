"""Record what workers that share a job out would need, and how long they would take."""

from dataclasses import dataclass

from qtoolkit.records.base import Record, Row
from qtoolkit.records.phase import Term
from qtoolkit.units import format_bytes, format_count, format_seconds


@dataclass(frozen=True)
class WorkerPlan(Record):
    """Describe a job that workers share out. All sizes in bytes.

    Attributes:
        num_workers: for which it is planned.
        memory: parts of a worker's memory at its peak; their sum is `peak_rss`.
        shared_disk: what the folder that all share holds beside the result, at most.
        shared_bytes: what is read from that folder and written to it, in the whole job.
        weight_bytes: what all workers read of the model.
        counts: numbers of workers.
        seconds: what the job takes with so many, each with processor cores of its own; empty if no speed is known.
        enough: the number of workers from which on twice as many save less than a tenth; 0 if it is not known.
        cores: of the machine that is planned for, on which no more workers than these gain anything; 0 if not known.
    """

    num_workers: int
    memory: tuple[Term, ...]
    shared_disk: int
    shared_bytes: int
    weight_bytes: int
    counts: tuple[int, ...] = ()
    seconds: tuple[float, ...] = ()
    enough: int = 0
    cores: int = 0

    @property
    def peak_rss(self) -> int:
        """Return the most bytes of main memory that a worker uses at one time."""
        return sum(term.size for term in self.memory)

    def rows(self) -> tuple[Row, ...]:
        each = f"{format_bytes(self.peak_rss)} each"
        moved = f"{format_bytes(self.shared_bytes)} through it, and {format_bytes(self.weight_bytes)} of weights read"
        here = f"on one machine of {self.cores} cores, no more than {self.cores} of one thread" if self.cores else ""
        return (
            Row("memory of workers", each, f"{self.num_workers} take {format_bytes(self.num_workers * self.peak_rss)}"),
            *(Row(f"of which {term.name}", format_bytes(term.size), term.source) for term in self.memory),
            Row("shared folder", format_bytes(self.shared_disk), moved),
            *(
                Row(f"with {format_count(count)} worker{'s' * (count > 1)}", format_seconds(seconds), "simulated")
                for count, seconds in zip(self.counts, self.seconds, strict=False)
            ),
            *((Row("more save little", f"from {format_count(self.enough)} workers on", here),) if self.enough else ()),
        )
