"""What a text taught a method: which text, how much of it, and how far each layer's outputs moved on it."""

from dataclasses import dataclass
from typing import ClassVar

from qtoolkit.records.base import Record, Row
from qtoolkit.units import format_count

# A model reads its own kind of text with far less: SmolLM2-135M has 20 on WikiText-2, 30 on Python's documentation.
FAR_PERPLEXITY = 100.0
_SHOWN = 3


@dataclass(frozen=True)
class LayerError(Record):
    """One layer on the calibration text.

    Attributes:
        name: its full name in the model.
        error: squared change of its outputs over their square, damping included; 0.01 is a hundredth of their energy.
        damp_percent: the damping it took, as a share of the mean of the Hessian's diagonal.
        num_inputs: tokens that reached it.
    """

    schema_version: ClassVar[int] = 1

    name: str
    error: float
    damp_percent: float
    num_inputs: int

    def rows(self) -> tuple[Row, ...]:
        return (Row(self.name, f"{self.error:.3g}", f"{format_count(self.num_inputs)} tokens"),)


@dataclass(frozen=True)
class CalibrationReport(Record):
    """How a model was calibrated.

    Attributes:
        text: what the user called the text; never the text itself.
        num_samples: samples used.
        seq_len: tokens of each.
        perplexity: of the quantized model on a few of these tokens; None where it was not measured.
        damp_percent: the damping that was asked for.
        layers: each layer that was calibrated.
        resumed: blocks that an earlier call had done.
        sketch: hashes of some of its passages (`qtoolkit.texts.overlap`), so that nobody measures quality on them.
        fingerprint: SHA-256 of the tokens that were used and their shape; empty where nobody said.
        text_check: whether the bytes of a text of the Hub have the hash that the Hub names, "checked: ...", or why that
            is not known, "not checked: ..."; empty for a text of one's own.
    """

    schema_version: ClassVar[int] = 2
    added_fields: ClassVar[frozenset[str]] = frozenset({"fingerprint", "text_check"})

    text: str
    num_samples: int
    seq_len: int
    perplexity: float | None
    damp_percent: float
    layers: tuple[LayerError, ...]
    resumed: int
    sketch: tuple[int, ...] = ()
    fingerprint: str = ""
    text_check: str = ""

    @property
    def mean_error(self) -> float:
        """The mean of the layers' errors."""
        return sum(layer.error for layer in self.layers) / max(1, len(self.layers))

    def rows(self) -> tuple[Row, ...]:
        tokens = format_count(self.num_samples * self.seq_len)
        rows = [Row("calibrated on", self.text, f"{self.num_samples} samples of {self.seq_len}, {tokens} tokens")]
        if self.text_check:
            rows.append(Row("bytes of the text", self.text_check))
        if self.perplexity is not None:
            far = "far from what this model knows: give other text" if self.perplexity > FAR_PERPLEXITY else ""
            rows.append(Row("its perplexity", f"{self.perplexity:.2f}", far))
        if self.layers:
            worst = sorted(self.layers, key=lambda layer: -layer.error)[:_SHOWN]
            shown = ", ".join(f"{layer.name} {layer.error:.2g}" for layer in worst)
            rows.append(Row("error of layers", f"{self.mean_error:.2g}", f"mean of squares; largest: {shown}"))
        damped = [layer for layer in self.layers if layer.damp_percent > self.damp_percent]
        if damped:
            most = max(layer.damp_percent for layer in damped)
            rows.append(Row("damped more", _layers(damped), f"up to {most:g} instead of {self.damp_percent:g}"))
        unseen = [layer for layer in self.layers if not layer.num_inputs]
        if unseen:
            rows.append(Row("not calibrated", _layers(unseen), "no token reached them: rounded to the nearest code"))
        if self.resumed:
            rows.append(Row("went on", f"{self.resumed} block{'s' * (self.resumed > 1)}", "done by an earlier call"))
        return tuple(rows)


def _layers(layers: list[LayerError]) -> str:
    return f"{len(layers)} layer{'s' * (len(layers) > 1)}"
