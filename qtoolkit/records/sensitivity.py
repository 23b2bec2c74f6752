"""How much a model loses when single layers are rounded."""

from dataclasses import dataclass
from typing import ClassVar

from qtoolkit.records.base import Record, Row
from qtoolkit.units import format_seconds

# Losses that are shown.
_MOST = 10


@dataclass(frozen=True)
class RoundingLoss(Record):
    """What rounding one layer, and no other, to some number of bits adds to the loss.

    Attributes:
        layer: its full name.
        bits: size of a code.
        loss: predicted KL divergence from the full-precision model, mean over tokens; nats per token.
        standard_error: of `loss`, from sample to sample.
    """

    schema_version: ClassVar[int] = 1

    layer: str
    bits: int
    loss: float
    standard_error: float

    def rows(self) -> tuple[Row, ...]:
        return (Row(self.layer, f"{self.bits} bits: {self.loss:.2g} nats per token", f"+- {self.standard_error:.1g}"),)


@dataclass(frozen=True)
class Sensitivity(Record):
    """How sensitive the layers of a model are, each alone.

    Attributes:
        losses: for each layer that may be quantized, in the model's order, and each number of bits.
        text: what it was measured on: "self", "wikitext2", a file's name.
        num_samples: samples of the text.
        seq_len: tokens of a sample.
        seconds: how long it took.
    """

    schema_version: ClassVar[int] = 1

    losses: tuple[RoundingLoss, ...]
    text: str
    num_samples: int
    seq_len: int
    seconds: float

    def by_layer(self) -> dict[str, dict[int, RoundingLoss]]:
        """Layer -> bits -> loss."""
        found: dict[str, dict[int, RoundingLoss]] = {}
        for loss in self.losses:
            found.setdefault(loss.layer, {})[loss.bits] = loss
        return found

    def rows(self) -> tuple[Row, ...]:
        largest = sorted(self.losses, key=lambda loss: -loss.loss)[:_MOST]
        return (
            Row("measured on", self.text, f"{self.num_samples} samples of {self.seq_len} tokens"),
            Row("took", format_seconds(self.seconds)),
            Row("layers", str(len(self.by_layer())), "each rounded alone; below, the largest losses"),
            *(row for loss in largest for row in loss.rows()),
        )
