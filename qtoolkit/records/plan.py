"""What will be done to each layer, and how large the result will be, known before any weight is read."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import mean
from typing import Any, ClassVar

from qtoolkit.records.base import Record, Row
from qtoolkit.records.machine import Machine
from qtoolkit.records.phase import PhasePlan
from qtoolkit.records.source import ModelSource
from qtoolkit.units import bits_per_weight, format_bits, format_bytes

# Rules that are shown one by one.
_MAX_RULES = 6


@dataclass(frozen=True)
class LayerPlan(Record):
    """One module that holds weights.

    Attributes:
        name: its full name in the model, "model.layers.0.self_attn.q_proj".
        shape: of its weight as [out_features, in_features]; the stored shape for what is no linear layer.
        num_weights: elements of its weight.
        bytes_before: bytes of its weight and bias in the model's own type; 0 where a tied layer already counts them.
        bytes_after: bytes of everything that replaces them, scales included.
        disk_bytes: bytes of everything that replaces them in the file.
        skipped: why it stays as it is; empty when it is quantized.
        adjusted: what a method changed so that the layer fits, a smaller group size say; empty otherwise.
        working_bytes: the most bytes in use at one time while this layer is quantized, its result included.
        bits: size of a code where a method's layers may differ; otherwise 0.
    """

    schema_version: ClassVar[int] = 2

    name: str
    shape: tuple[int, ...]
    num_weights: int
    bytes_before: int
    bytes_after: int
    disk_bytes: int
    skipped: str = ""
    adjusted: str = ""
    working_bytes: int = 0
    bits: int = 0

    @property
    def bits_per_weight(self) -> float:
        """Bits that one weight takes afterwards, scales included."""
        return bits_per_weight(self.bytes_after, self.num_weights)

    def rows(self) -> tuple[Row, ...]:
        size = f"{format_bytes(self.bytes_before)} -> {format_bytes(self.bytes_after)}"
        return (Row(self.name, self.skipped or size, self.adjusted or str(list(self.shape))),)


def settings_rows(method: str, settings: Mapping[str, Any]) -> tuple[Row, ...]:
    """A method's name with its settings, what is left open aside, and the rules for single layers, a row each."""
    plain = {key: value for key, value in settings.items() if value is not None and not isinstance(value, Mapping)}
    rules = settings.get("rules") or {}
    shown = [Row("rule", _joined(changes), pattern) for pattern, changes in rules.items()]
    if len(shown) > _MAX_RULES:
        left = len(shown) - _MAX_RULES + 1
        shown = [*shown[: _MAX_RULES - 1], Row("rule", f"and {left} more", "settings['rules'] has them all")]
    return (Row("method", method, _joined(plain)), *shown)


def _joined(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in settings.items())


def layer_rows(layers: Iterable[LayerPlan], skipped: Iterable[LayerPlan]) -> tuple[Row, ...]:
    """How many layers are quantized, and one row for each adjustment and each reason to skip, the modules counted."""
    quantized = tuple(layers)
    adjusted = Counter(layer.adjusted for layer in quantized if layer.adjusted)
    reasons = Counter(layer.skipped for layer in skipped)
    return (
        Row("quantized layers", str(len(quantized))),
        *_layout_rows(quantized),
        *(Row("adjusted", f"{count} layer{'s' * (count > 1)}", what) for what, count in adjusted.items()),
        *(Row("skipped", f"{count} module{'s' * (count > 1)}", reason) for reason, count in reasons.items()),
    )


def _layout_rows(layers: tuple[LayerPlan, ...]) -> tuple[Row, ...]:
    """Where layers have different bits: how many have which, of all and of each kind."""
    if len({layer.bits for layer in layers}) < 2:
        return ()
    kinds: dict[str, list[LayerPlan]] = defaultdict(list)
    for layer in layers:
        kinds[layer.name.rpartition(".")[2]].append(layer)
    # Kinds of the most bits first: what the layout spends them on.
    ordered = sorted(kinds.items(), key=lambda item: -_mean_bits(item[1]))
    size, weights = sum(layer.disk_bytes for layer in layers), sum(layer.num_weights for layer in layers)
    stored = f"{format_bits(bits_per_weight(size, weights))} in the file"
    return (
        Row("layout", _counted(layers), stored),
        *(Row(f"  {kind}", _counted(members), f"mean {_mean_bits(members):.2f} bits") for kind, members in ordered),
    )


def _counted(layers: Iterable[LayerPlan]) -> str:
    """`4 bits: 28 layers, 8 bits: 2 layers`."""
    counts = sorted(Counter(layer.bits for layer in layers).items())
    return ", ".join(f"{bits} bits: {count} layer{'s' * (count > 1)}" for bits, count in counts)


def _mean_bits(layers: Iterable[LayerPlan]) -> float:
    return mean(layer.bits for layer in layers)


@dataclass(frozen=True)
class Advice(Record):
    """A change of a plan, and what it would make of it.

    Attributes:
        change: what to change, as it is written in a call: "GPTQ(num_samples=32)".
        fits: whether the job then fits the machine.
        footprint_after, disk_after, peak_rss, peak_vram: bytes, as in `Plan`.
        bits_per_weight: of the whole model in memory.
    """

    schema_version: ClassVar[int] = 1

    change: str
    fits: bool
    footprint_after: int
    disk_after: int
    peak_rss: int
    peak_vram: int
    bits_per_weight: float

    def rows(self) -> tuple[Row, ...]:
        vram = f", GPU {format_bytes(self.peak_vram)}" if self.peak_vram else ""
        peaks = f"memory {format_bytes(self.peak_rss)}{vram}, result {format_bytes(self.footprint_after)}"
        return (Row(self.change, "fits" if self.fits else "does not fit", peaks),)


@dataclass(frozen=True)
class Plan(Record):
    """What a job will do, what it needs, and whether the machine has it. All sizes in bytes.

    Attributes:
        source: the model.
        method: the method's name, "nf4".
        settings: the config's fields as JSON-ready values.
        device: where the result will live, "cpu" or "cuda:0".
        layers: the modules that will be quantized.
        skipped: the modules that stay as they are, each with its reason.
        footprint_after: every tensor that stays in memory.
        disk_after: the weight files that will be written.
        phases: what each phase of the job takes, in their order.
        inference: what using the result takes, with a full context.
        machine: what is planned for; None where nothing is known of it.
        problems: why the job does not fit: phase, what is short, and by how much; empty when it fits.
        tight: what will be nearly used up: more than nine tenths of it.
        advice: changes with which it would fit, each with its figures; empty when it fits.
        notes: what was assumed.
    """

    schema_version: ClassVar[int] = 2

    source: ModelSource
    method: str
    settings: Mapping[str, Any]
    device: str
    layers: tuple[LayerPlan, ...]
    skipped: tuple[LayerPlan, ...]
    footprint_after: int
    disk_after: int
    phases: tuple[PhasePlan, ...]
    inference: PhasePlan
    machine: Machine | None = None
    problems: tuple[str, ...] = ()
    tight: tuple[str, ...] = ()
    advice: tuple[Advice, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def fits(self) -> bool:
        """Whether the machine has what every phase needs."""
        return not self.problems

    @property
    def peak_rss(self) -> int:
        """The most bytes this process will have resident while the job runs."""
        return max((phase.peak_rss for phase in self.phases), default=0)

    @property
    def peak_vram(self) -> int:
        """The most bytes of the GPU's memory in use while the job runs; 0 on the CPU."""
        return max((phase.peak_vram for phase in self.phases), default=0)

    @property
    def bits_per_weight(self) -> float:
        """Bits per parameter of the whole model in memory, what is not quantized included."""
        return bits_per_weight(self.footprint_after, self.source.num_parameters)

    @property
    def verdict(self) -> str:
        """One of fits, tight, and does not fit; empty where nothing is known of the machine."""
        if self.machine is None:
            return ""
        return "does not fit" if self.problems else "tight" if self.tight else "fits"

    def rows(self) -> tuple[Row, ...]:
        before, after = self.source.footprint, self.footprint_after
        return (
            *self.source.rows()[:1],
            *settings_rows(self.method, self.settings),
            Row("device", self.device),
            *((Row("verdict", self.verdict, self.machine.name),) if self.machine else ()),
            *(Row("does not fit", problem) for problem in self.problems),
            *(Row("tight", what) for what in self.tight),
            *layer_rows(self.layers, self.skipped),
            Row("footprint before", format_bytes(before)),
            Row("footprint after", format_bytes(after), f"{100 * after / before:.1f} % of before" if before else ""),
            Row("bits per weight", format_bits(self.bits_per_weight)),
            Row("on disk after", format_bytes(self.disk_after)),
            *(Row(f"phase {phase.name}", phase.summary()) for phase in self.phases),
            Row("peak resident memory", format_bytes(self.peak_rss), self._fullest("peak_rss")),
            *self._vram_rows(),
            Row("to use the result", self.inference.summary(), self.inference.name),
            *(Row("would fit" if advice.fits else "would not fit", *_advised(advice)) for advice in self.advice),
            *(Row("note", note) for note in self.notes),
        )

    def terms(self) -> str:
        """Every phase with the parts of its sums, as text."""
        return "\n".join(str(phase) for phase in (*self.phases, self.inference))

    def _vram_rows(self) -> tuple[Row, ...]:
        peak = self.peak_vram
        return (Row("peak GPU memory", format_bytes(peak), self._fullest("peak_vram")),) if peak else ()

    def _fullest(self, what: str) -> str:
        names = [phase.name for phase in self.phases if getattr(phase, what) == getattr(self, what)]
        return f"predicted, in the phase {names[0]}" if names else "predicted"


def _advised(advice: Advice) -> tuple[str, str]:
    row = advice.rows()[0]
    return row.label, row.note
