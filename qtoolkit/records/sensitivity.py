"""How much a model loses when single layers are rounded."""

from dataclasses import dataclass
from typing import ClassVar

from qtoolkit.records.base import Record, Row
from qtoolkit.units import format_seconds

# Rows of layers that are shown.
_MOST = 10


@dataclass(frozen=True)
class RoundingLoss(Record):
    """What rounding one layer to some number of bits adds to the loss.

    Attributes:
        bits: size of a code.
        loss: predicted KL divergence from the full-precision model, mean over tokens; nats per token.
        standard_error: of `loss`, from sample to sample.
    """

    schema_version: ClassVar[int] = 1

    bits: int
    loss: float
    standard_error: float

    def rows(self) -> tuple[Row, ...]:
        return (Row(f"{self.bits} bits", f"{self.loss:.2g} nats per token", f"+- {self.standard_error:.1g}"),)


@dataclass(frozen=True)
class LayerSensitivity(Record):
    """What rounding one layer, and no other, adds to the loss.

    Attributes:
        name: the layer's full name.
        losses: for each number of bits that the method has.
    """

    schema_version: ClassVar[int] = 1

    name: str
    losses: tuple[RoundingLoss, ...]

    def rows(self) -> tuple[Row, ...]:
        return (Row(self.name, ", ".join(f"{loss.bits} bits: {loss.loss:.2g}" for loss in self.losses)),)


@dataclass(frozen=True)
class Sensitivity(Record):
    """How sensitive the layers of a model are, each alone.

    Attributes:
        layers: each layer that may be quantized, in the model's order.
        text: what it was measured on: "self", "wikitext2", a file's name.
        num_samples: samples of the text.
        seq_len: tokens of a sample.
        seconds: how long it took.
    """

    schema_version: ClassVar[int] = 1

    layers: tuple[LayerSensitivity, ...]
    text: str
    num_samples: int
    seq_len: int
    seconds: float

    def rows(self) -> tuple[Row, ...]:
        ordered = sorted(self.layers, key=_worst, reverse=True)
        return (
            Row("measured on", self.text, f"{self.num_samples} samples of {self.seq_len} tokens"),
            Row("took", format_seconds(self.seconds)),
            Row(
                "layers",
                str(len(self.layers)),
                "predicted loss of each alone, nats per token; the most sensitive first",
            ),
            *(row for layer in ordered[:_MOST] for row in layer.rows()),
        )


def _worst(layer: LayerSensitivity) -> float:
    return max((loss.loss for loss in layer.losses), default=0.0)
