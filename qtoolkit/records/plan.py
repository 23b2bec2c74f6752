"""What will be done to each layer, and how large the result will be, known before any weight is read."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from qtoolkit.records.base import Record, Row
from qtoolkit.records.source import ModelSource
from qtoolkit.units import bits_per_weight, format_bits, format_bytes


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
    """

    schema_version: ClassVar[int] = 1

    name: str
    shape: tuple[int, ...]
    num_weights: int
    bytes_before: int
    bytes_after: int
    disk_bytes: int
    skipped: str = ""
    adjusted: str = ""
    working_bytes: int = 0

    @property
    def bits_per_weight(self) -> float:
        """Bits that one weight takes afterwards, scales included."""
        return bits_per_weight(self.bytes_after, self.num_weights)

    def rows(self) -> tuple[Row, ...]:
        size = f"{format_bytes(self.bytes_before)} -> {format_bytes(self.bytes_after)}"
        return (Row(self.name, self.skipped or size, self.adjusted or str(list(self.shape))),)


def layer_rows(layers: Iterable[LayerPlan], skipped: Iterable[LayerPlan]) -> tuple[Row, ...]:
    """How many layers are quantized, and one row for each adjustment and each reason to skip, the modules counted."""
    quantized = tuple(layers)
    adjusted = Counter(layer.adjusted for layer in quantized if layer.adjusted)
    reasons = Counter(layer.skipped for layer in skipped)
    return (
        Row("quantized layers", str(len(quantized))),
        *(Row("adjusted", f"{count} layer{'s' * (count > 1)}", what) for what, count in adjusted.items()),
        *(Row("skipped", f"{count} module{'s' * (count > 1)}", reason) for reason, count in reasons.items()),
    )


@dataclass(frozen=True)
class Plan(Record):
    """What a job will do.

    Attributes:
        source: the model.
        method: the method's name, "nf4".
        settings: the config's fields as JSON-ready values.
        device: where the result will live, "cpu" or "cuda:0".
        layers: the modules that will be quantized.
        skipped: the modules that stay as they are, each with its reason.
        footprint_after: bytes of every tensor that stays in memory.
        disk_after: bytes of the weight files that will be written.
        peak_rss: the most bytes this process will have resident while the job runs.
    """

    schema_version: ClassVar[int] = 1

    source: ModelSource
    method: str
    settings: Mapping[str, Any]
    device: str
    layers: tuple[LayerPlan, ...]
    skipped: tuple[LayerPlan, ...]
    footprint_after: int
    disk_after: int
    peak_rss: int

    def rows(self) -> tuple[Row, ...]:
        before, after = self.source.footprint, self.footprint_after
        return (
            *self.source.rows()[:1],
            Row("method", self.method, ", ".join(f"{key}={value}" for key, value in self.settings.items())),
            Row("device", self.device),
            *layer_rows(self.layers, self.skipped),
            Row("footprint before", format_bytes(before)),
            Row("footprint after", format_bytes(after), f"{100 * after / before:.1f} % of before" if before else ""),
            Row("bits per weight", format_bits(bits_per_weight(after, self.source.num_parameters))),
            Row("on disk after", format_bytes(self.disk_after)),
            Row("peak resident memory", format_bytes(self.peak_rss), "estimated"),
        )
