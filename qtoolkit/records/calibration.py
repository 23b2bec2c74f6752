"""Record how a model was calibrated: on which text, how much of it, and the error of each layer's outputs."""

from dataclasses import dataclass
from typing import ClassVar

from qtoolkit.records.base import Record, Row, row_if
from qtoolkit.units import format_count, format_items

# Text of a kind that a model was trained on gives far less: SmolLM2-135M has 20 on WikiText-2, 30 on Python's docs.
FAR_PERPLEXITY = 100.0
_SHOWN = 3


@dataclass(frozen=True)
class LayerError(Record):
    """Hold the error of one layer on the calibration text.

    Attributes:
        name: its full name in the model.
        error: squared change of its outputs divided by their square, damping included; 0.01 means 1 % of their energy.
            The outputs are those of the weights that the layer aimed at, which a correction changes.
        damp_percent: the damping used, as a share of the mean of the Hessian's diagonal.
        num_inputs: tokens that it received.
        corrected: whether it makes good what layers before it have changed; None if this was not asked for.
        raised: groups whose weights are finer than the smallest scale that is stored, which they got.
    """

    added_fields: ClassVar[frozenset[str]] = frozenset({"corrected", "raised"})

    name: str
    error: float
    damp_percent: float
    num_inputs: int
    corrected: bool | None = None
    raised: int = 0

    def rows(self) -> tuple[Row, ...]:
        return (Row(self.name, f"{self.error:.3g}", f"{format_count(self.num_inputs)} tokens"),)


@dataclass(frozen=True)
class CalibrationReport(Record):
    """Describe how a model was calibrated.

    Attributes:
        text: the user's name for the text; never the text itself.
        num_samples: number of samples.
        seq_len: tokens of each sample.
        perplexity: of the quantized model on a few of these tokens; None if it was not measured.
        damp_percent: the damping requested by the config.
        layers: each calibrated layer.
        resumed: blocks that an earlier call had already quantized.
        sketch: hashes of some passages (`qtoolkit.texts.overlap`), used to warn when quality is measured on them.
        fingerprint: SHA-256 of the tokens and their shape; empty if it is not known.
        text_check: for a text from the Hub, whether its bytes have the hash that the Hub names ("checked: ..."), or why
            that is not known ("not checked: ..."); empty for the user's own text.
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
        """Return the mean of the layers' errors."""
        return sum(layer.error for layer in self.layers) / max(1, len(self.layers))

    def rows(self) -> tuple[Row, ...]:
        tokens = format_count(self.num_samples * self.seq_len)
        rows = [
            Row("calibrated on", self.text, f"{self.num_samples} samples of {self.seq_len}, {tokens} tokens"),
            *row_if("bytes of the text", self.text_check),
        ]
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
            count = format_items(len(damped), "layer")
            rows.append(Row("damped more", count, f"up to {most:g} instead of {self.damp_percent:g}"))
        unseen = sum(not layer.num_inputs for layer in self.layers)
        if unseen:
            note = "no token reached them: rounded to the nearest code, or calibrated with the tokens of all experts"
            rows.append(Row("not calibrated", format_items(unseen, "layer"), note))
        apart = sum(layer.corrected is False for layer in self.layers)
        if apart:
            note = "other tokens reach them than in full precision, or too few: nothing before them is made good"
            rows.append(Row("not corrected", format_items(apart, "layer"), note))
        raised = [layer for layer in self.layers if layer.raised]
        if raised:
            note = f"in {format_items(len(raised), 'layer')} ({raised[0].name}), whose weights are finer than that"
            count = format_items(sum(layer.raised for layer in raised), "group")
            rows.append(Row("smallest scale", f"{count} got 6.1e-05", note))
        if self.resumed:
            rows.append(Row("went on", format_items(self.resumed, "block"), "done by an earlier call"))
        return tuple(rows)
