"""Record what is done to each layer, and define the fields that plans and reports of jobs share."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from statistics import mean
from types import MappingProxyType
from typing import Any, ClassVar

from qtoolkit.records.base import Record, Row
from qtoolkit.records.memory import MEMORY_WORDS
from qtoolkit.records.source import ModelSource
from qtoolkit.units import bits_per_weight, format_bits, format_bytes, format_count, format_items, format_share

# Rules for layers that are shown one by one; further ones are counted.
_MAX_RULES = 6


@dataclass(frozen=True)
class LayerPlan(Record):
    """Describe what is done to one module that holds weights.

    Attributes:
        name: its full name in the model, "model.layers.0.self_attn.q_proj".
        shape: of its weight as [out_features, in_features]; the stored shape if it is not a linear layer.
        num_weights: elements of its weight.
        bytes_before: bytes of its weight and bias in the model's own type; 0 if a tied layer already counts them.
        bytes_after: bytes of everything that replaces them, scales included.
        disk_bytes: bytes of everything that replaces them in the file.
        skipped: why it is not quantized; empty if it is.
        adjusted: what a method changed so that the layer can be quantized, a smaller group size say; otherwise empty.
        working_bytes: the most bytes in use at one time while this layer is quantized, its result included.
        bits: size of a code if the layers of a method may have different ones; otherwise 0.
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
        """Return the bits that one weight takes after quantization, scales included."""
        return bits_per_weight(self.bytes_after, self.num_weights)

    def rows(self) -> tuple[Row, ...]:
        size = f"{format_bytes(self.bytes_before)} -> {format_bytes(self.bytes_after)}"
        return (Row(self.name, self.skipped or size, self.adjusted or str(list(self.shape))),)


@dataclass(frozen=True)
class JobRecord(Record):
    """Describe which model is quantized and how; base of a job's plan and of its report.

    Attributes:
        source: the original model.
        method: the method's name, "nf4".
        settings: the config's fields as JSON-ready values.
        device: where the result is kept in memory, "cpu" or "cuda:0".
        layers: the modules that are quantized.
        skipped: the modules that are not, each with its reason.
        warnings: what is probably not wanted, one line each.
    """

    added_fields: ClassVar[frozenset[str]] = frozenset({"warnings"})
    words: ClassVar[Mapping[str, str]] = MappingProxyType(
        {**MEMORY_WORDS, "skipped": "stays in its own type; a weight that two modules share is stored once"}
    )

    source: ModelSource
    method: str
    settings: Mapping[str, Any]
    device: str
    layers: tuple[LayerPlan, ...]
    skipped: tuple[LayerPlan, ...]
    warnings: tuple[str, ...] = field(default=(), kw_only=True)

    @property
    def num_quantized(self) -> int:
        """Return the number of weights that are quantized."""
        return sum(layer.num_weights for layer in self.layers)

    def count(self) -> str:
        """Return how many modules are quantized in one clause: "210 of 273 modules"."""
        return f"{len(self.layers)} of {format_items(len(self.layers) + len(self.skipped), 'module')}"

    def share_rows(self) -> tuple[Row, ...]:
        """Return rows with the share of the model's weights that is quantized, and the warnings."""
        counts = f"{format_count(self.num_quantized)} of {format_count(self.source.num_parameters)}"
        share = Row("quantized weights", format_share(self.num_quantized, self.source.num_parameters), counts)
        return (share, *(Row("warning", warning) for warning in self.warnings))

    def config_rows(self) -> tuple[Row, ...]:
        """Return rows with the model, the method, its settings that are not None, each layer rule, and the device."""
        settings = {
            key: value for key, value in self.settings.items() if value is not None and not isinstance(value, Mapping)
        }
        rules = [Row("rule", _joined(own), pattern) for pattern, own in (self.settings.get("rules") or {}).items()]
        if len(rules) > _MAX_RULES:
            left = len(rules) - _MAX_RULES + 1
            rules[_MAX_RULES - 1 :] = [Row("rule", f"and {left} more", "settings['rules'] has them all")]
        method = Row("method", self.method, _joined(settings))
        return (self.source.rows()[0], method, *rules, Row("device", self.device))

    def layer_rows(self) -> tuple[Row, ...]:
        """Return rows with the number of quantized layers, and a count for each adjustment and each reason to skip."""
        adjusted = Counter(layer.adjusted for layer in self.layers if layer.adjusted)
        reasons = Counter(layer.skipped for layer in self.skipped)
        return (
            Row("quantized layers", str(len(self.layers))),
            *_layout_rows(self.layers),
            *(Row("adjusted", format_items(count, "layer"), what) for what, count in adjusted.items()),
            *(Row("skipped", format_items(count, "module"), reason) for reason, count in reasons.items()),
        )


def _joined(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in settings.items())


def _layout_rows(layers: tuple[LayerPlan, ...]) -> tuple[Row, ...]:
    """Return how many layers have how many bits, of all and of each kind; no rows if all have the same."""
    if len({layer.bits for layer in layers}) < 2:
        return ()
    kinds: dict[str, list[LayerPlan]] = defaultdict(list)
    for layer in layers:
        kinds[layer.name.rpartition(".")[2]].append(layer)
    # Kinds with the most bits first.
    ordered = sorted(kinds.items(), key=lambda item: -_mean_bits(item[1]))
    size = sum(layer.disk_bytes for layer in layers)
    weights = sum(layer.num_weights for layer in layers)
    stored = f"{format_bits(bits_per_weight(size, weights))} in the file"
    return (
        Row("layout", _counted(layers), stored),
        *(Row(f"  {kind}", _counted(members), f"mean {_mean_bits(members):.2f} bits") for kind, members in ordered),
    )


def _counted(layers: Iterable[LayerPlan]) -> str:
    """Return layers counted by their bits: `4 bits: 28 layers, 8 bits: 2 layers`."""
    counts = sorted(Counter(layer.bits for layer in layers).items())
    return ", ".join(f"{bits} bits: {format_items(count, 'layer')}" for bits, count in counts)


def _mean_bits(layers: Iterable[LayerPlan]) -> float:
    return mean(layer.bits for layer in layers)
