"""Record how much a model's output changes when single layers are rounded."""

from dataclasses import dataclass

from qtoolkit.records.base import Record, Row
from qtoolkit.units import format_seconds

# Number of losses that are shown.
_MAX_SHOWN = 10


@dataclass(frozen=True)
class RoundingLoss(Record):
    """Hold what rounding one layer alone to some number of bits adds to the loss.

    Attributes:
        layer: its full name.
        bits: size of a code, or the name of the type that stores the layer.
        loss: predicted KL divergence from the full-precision model, mean over tokens; nats per token.
        standard_error: of `loss`, over the samples.
    """

    layer: str
    bits: int | str
    loss: float
    standard_error: float

    def rows(self) -> tuple[Row, ...]:
        stored = self.bits if isinstance(self.bits, str) else f"{self.bits} bits"
        return (Row(self.layer, f"{stored}: {self.loss:.2g} nats per token", f"+- {self.standard_error:.1g}"),)


@dataclass(frozen=True)
class Sensitivity(Record):
    """Hold how sensitive each layer of a model is to rounding, each alone.

    Attributes:
        losses: for each layer that may be quantized, in the model's order, and each number of bits or type.
        text: the text that it was measured on: "self", "wikitext2", a file's name.
        num_samples: samples of the text.
        seq_len: tokens of a sample.
        seconds: how long it took.
    """

    losses: tuple[RoundingLoss, ...]
    text: str
    num_samples: int
    seq_len: int
    seconds: float

    def by_layer(self) -> dict[str, dict[int | str, RoundingLoss]]:
        """Return the losses as layer -> bits -> loss."""
        losses: dict[str, dict[int | str, RoundingLoss]] = {}
        for loss in self.losses:
            losses.setdefault(loss.layer, {})[loss.bits] = loss
        return losses

    def rows(self) -> tuple[Row, ...]:
        largest = sorted(self.losses, key=lambda loss: -loss.loss)[:_MAX_SHOWN]
        return (
            Row("measured on", self.text, f"{self.num_samples} samples of {self.seq_len} tokens"),
            Row("took", format_seconds(self.seconds)),
            Row("layers", str(len(self.by_layer())), "each rounded alone; below, the largest losses"),
            *(row for loss in largest for row in loss.rows()),
        )
