"""Record what a job will do and need, known before any weight is read."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from qtoolkit.records import html
from qtoolkit.records.base import Record, Row, note_rows
from qtoolkit.records.layer_plan import JobRecord
from qtoolkit.records.machine import THIS_MACHINE, Machine
from qtoolkit.records.memory import footprint_bars, footprints
from qtoolkit.records.phase import PhasePlan
from qtoolkit.records.reading import Reading
from qtoolkit.records.worker_plan import WorkerPlan
from qtoolkit.units import bits_per_weight, format_bytes


@dataclass(frozen=True)
class Advice(Record):
    """Suggest a change of a plan, with the figures that the plan would then have.

    Attributes:
        change: what to change, as it is written in a call: "GPTQ(num_samples=32)".
        fits: whether the job then fits the machine.
        footprint_after, disk_after, peak_rss, peak_vram: bytes, as in `Plan`.
        bits_per_weight: of the whole model in memory.
    """

    change: str
    fits: bool
    footprint_after: int
    disk_after: int
    peak_rss: int
    peak_vram: int
    bits_per_weight: float

    def rows(self) -> tuple[Row, ...]:
        return (Row(self.change, "fits" if self.fits else "does not fit", self.peaks()),)

    def peaks(self) -> str:
        """Return the peaks of memory and the size of the result in one line."""
        vram = f", GPU {format_bytes(self.peak_vram)}" if self.peak_vram else ""
        return f"memory {format_bytes(self.peak_rss)}{vram}, result {format_bytes(self.footprint_after)}"


@dataclass(frozen=True)
class Plan(JobRecord):
    """Describe what a job will do, what it needs, and whether the machine has it. All sizes in bytes.

    Attributes:
        source, method, settings, device, layers, skipped, warnings: as in `JobRecord`.
        footprint_after: every tensor that stays in memory.
        disk_after: the weight files that will be written.
        phases: what each phase of the job needs, in their order.
        inference: what using the result needs, with a full context.
        machine: the machine that the job is planned for; None if nothing is known of it.
        problems: why the job does not fit: phase, what is short, and by how much; empty if it fits.
        tight: resources of which more than nine tenths will be used.
        advice: changes with which it would fit, each with its figures; empty if it fits.
        notes: what was assumed.
        readings: what each program that is known to load models says of the result; empty for an unknown format.
        for_reader: the program that the result is made for, "vllm" or "vllm==0.10"; empty for none in particular.
        sharing: what workers that share the job out need; None where one process does it.
    """

    schema_version: ClassVar[int] = 2
    added_fields: ClassVar[frozenset[str]] = JobRecord.added_fields | {"readings", "for_reader", "sharing"}

    footprint_after: int
    disk_after: int
    phases: tuple[PhasePlan, ...]
    inference: PhasePlan
    machine: Machine | None = None
    problems: tuple[str, ...] = ()
    tight: tuple[str, ...] = ()
    advice: tuple[Advice, ...] = ()
    notes: tuple[str, ...] = ()
    readings: tuple[Reading, ...] = ()
    for_reader: str = ""
    sharing: WorkerPlan | None = None

    @property
    def reading(self) -> Reading | None:
        """Return what the program says that the result is made for; None where it is made for none in particular."""
        name = self.for_reader.partition("==")[0]
        return next((reading for reading in self.readings if reading.reader == name), None)

    @property
    def fits(self) -> bool:
        """Return whether the machine has what every phase needs."""
        return not self.problems

    @property
    def peak_rss(self) -> int:
        """Return the most bytes that this process will have resident while the job runs."""
        return max((phase.peak_rss for phase in self.phases), default=0)

    @property
    def peak_vram(self) -> int:
        """Return the most bytes of the GPU's memory in use while the job runs; 0 on the CPU."""
        return max((phase.peak_vram for phase in self.phases), default=0)

    @property
    def bits_per_weight(self) -> float:
        """Return the bits per parameter of the whole model in memory, layers that are not quantized included."""
        return bits_per_weight(self.footprint_after, self.source.num_parameters)

    @property
    def verdict(self) -> str:
        """Return "fits", "tight" or "does not fit"; empty if nothing is known of the machine."""
        if self.machine is None:
            return ""
        return "does not fit" if self.problems else "tight" if self.tight else "fits"

    def headline(self) -> str:
        sizes = footprints(self.source.footprint, self.footprint_after)
        where = "" if self.machine is None else f" {self.machine.name}"
        verdict = f"{self.verdict[:1].upper()}{self.verdict[1:]}{where}: " if self.verdict else ""
        problem = f"; {self.problems[0]}" if self.problems else ""
        told = "A forecast: nothing is done yet, %quantize or qt.quantize does it."
        return f"{verdict}{sizes}, {self.count()}{problem}. {told}"

    def picture(self) -> str:
        drawn = footprint_bars(self.source.footprint, self.footprint_after)
        drawn += self._bars(
            "Main memory that each phase of the job needs at most",
            "peak_rss",
            self.machine.memory if self.machine else 0,
        )
        if self.peak_vram:
            drawn += self._bars(
                "GPU memory that each phase of the job needs at most",
                "peak_vram",
                sum(self.machine.vram) if self.machine else 0,
            )
        return drawn

    def _bars(self, title: str, peak: str, limit: int) -> str:
        """Draw this peak of each phase, and what the machine has of it."""
        sizes = [(name, getattr(phase, peak)) for name, phase in self._named_phases()]
        if self.machine is not None and limit:
            name = self.machine.name
            sizes.append(("free here now" if name == THIS_MACHINE else f"{name} has", limit))
        return html.bars(title, [(name, size, format_bytes(size)) for name, size in sizes])

    def rows(self) -> tuple[Row, ...]:
        before = self.source.footprint
        share = f"{100 * self.footprint_after / before:.1f} % of before" if before else ""
        peak_vram = Row("peak GPU memory", format_bytes(self.peak_vram), self._fullest("peak_vram"))
        return (
            *self.share_rows(),
            *self.config_rows(),
            *((Row("verdict", self.verdict, self.machine.name),) if self.machine else ()),
            *(self.reading.rows() if self.reading else ()),
            *(Row("does not fit", problem) for problem in self.problems),
            *(Row("tight", what) for what in self.tight),
            *self.layer_rows(),
            Row("footprint before", format_bytes(before)),
            Row("footprint after", format_bytes(self.footprint_after), share),
            Row("bits per weight", f"{self.bits_per_weight:.3f}"),
            Row("on disk after", format_bytes(self.disk_after)),
            *(Row(f"phase {name}", phase.summary()) for name, phase in self._named_phases()),
            Row("peak resident memory", format_bytes(self.peak_rss), self._fullest("peak_rss")),
            *((peak_vram,) if self.peak_vram else ()),
            *(self.sharing.rows() if self.sharing else ()),
            Row("to use the result", self.inference.summary(), self.inference.name),
            *(
                Row("would fit" if advice.fits else "would not fit", advice.change, advice.peaks())
                for advice in self.advice
            ),
            *note_rows(self.notes),
        )

    def terms(self) -> str:
        """Return every phase with the parts of its memory, as text."""
        return "\n".join(str(phase) for phase in (*self.phases, self.inference))

    def _named_phases(self) -> Iterator[tuple[str, PhasePlan]]:
        """Yield phases with their names as shown: a result is loaded again, after the model was loaded."""
        seen: set[str] = set()
        for phase in self.phases:
            yield f"{phase.name} again" if phase.name in seen else phase.name, phase
            seen.add(phase.name)

    def _fullest(self, peak: str) -> str:
        names = [name for name, phase in self._named_phases() if getattr(phase, peak) == getattr(self, peak)]
        return f"predicted, in the phase {names[0]}" if names else "predicted"
