"""Record what an adapter gives back to a quantized model."""

from dataclasses import dataclass

from qtoolkit.files import shortened
from qtoolkit.records.base import Record, Row, note_rows, row_if
from qtoolkit.records.quality import QualityReport
from qtoolkit.units import format_bytes, format_items, format_seconds


@dataclass(frozen=True)
class Repair(Record):
    """Describe an adapter that was computed for a quantized model.

    Attributes:
        model, base: the user's names of the quantized model and of its base.
        rank: of the adapter.
        num_layers: number of layers that it repairs.
        calibration: the user's name of the calibration text.
        num_samples, seq_len: samples of that text, and tokens of each.
        before, after: the quantized model without and with the adapter, against the base.
        weight_bits: bits per weight of the repaired layers without the adapter.
        adapter_bits: bits per weight that the adapter adds.
        adapter_bytes: size of its weight file.
        notes: what was decided or left out, one line each.
        path: its folder.
        seconds: how long it took.
        left: what of the blocks has no adapter, in one clause; empty for nothing.
        least_rank: of any layer; `rank` is the largest.
        resumed: blocks that an earlier call had done.
    """

    model: str
    base: str
    rank: int
    num_layers: int
    calibration: str
    num_samples: int
    seq_len: int
    before: QualityReport
    after: QualityReport
    weight_bits: float
    adapter_bits: float
    adapter_bytes: int
    notes: tuple[str, ...]
    path: str
    seconds: float
    left: str = ""
    least_rank: int | None = None
    resumed: int = 0

    @property
    def regained(self) -> float:
        """Return the share of the KL divergence that the adapter takes away; negative where it adds some."""
        before, after = self.before.kl_divergence, self.after.kl_divergence
        return 1 - after / before if before and after is not None else 0.0

    @property
    def same_bytes(self) -> str:
        """Return what the adapter's bytes buy as code bits, in one line.

        Each bit more halves the steps between codes, and takes away three quarters of the squared error.
        """
        bits = int(self.adapter_bits)
        if not bits:
            return f"the same bytes are {self.adapter_bits:.2f} bits per weight, less than one more bit for each code"
        saved = 1 - 0.25**bits
        verdict = "better, where the model can be quantized again" if saved > self.regained else "less than this"
        more = "one more bit" if bits == 1 else f"{bits} more bits"
        return f"the same bytes buy {more} for each code, which takes away about {100 * saved:.0f} %: {verdict}"

    def headline(self) -> str:
        what = f"takes away {100 * self.regained:.0f} %" if self.regained >= 0 else "takes away nothing"
        left = f" Left out: {self.left}." if self.left else ""
        return f"An adapter of rank {self._ranks} {what} of the KL divergence; saved to {shortened(self.path)}.{left}"

    @property
    def _ranks(self) -> str:
        same = self.least_rank in (None, self.rank)
        return str(self.rank) if same else f"{self.least_rank} to {self.rank}"

    def rows(self) -> tuple[Row, ...]:
        before, after = self.before, self.after
        floats = (before.kl_divergence or 0.0, after.kl_divergence or 0.0)
        return (
            Row("model", shortened(self.model)),
            Row("base", shortened(self.base)),
            Row("KL divergence", f"{floats[0]:.3g} to {floats[1]:.3g} nats", f"{-100 * self.regained:+.1f} %"),
            Row("perplexity", f"{before.perplexity:.3f} to {after.perplexity:.3f}", _of_base(before.base_perplexity)),
            Row("measured on", before.text, f"{before.num_tokens} tokens"),
            Row(
                "bits per weight",
                f"{self.weight_bits:.2f} to {self.weight_bits + self.adapter_bits:.2f}",
                f"{self.num_layers} layers; the adapter adds {self.adapter_bits:.2f}",
            ),
            Row("adapter", format_bytes(self.adapter_bytes), f"rank {self._ranks}"),
            Row("instead", self.same_bytes),
            Row("repaired on", self.calibration, f"{self.num_samples} samples of {self.seq_len} tokens"),
            *note_rows(self.notes),
            *row_if("done before", format_items(self.resumed, "block") if self.resumed else ""),
            *row_if("saved to", shortened(self.path)),
            Row("whole job", format_seconds(self.seconds)),
        )


def _of_base(perplexity: float | None) -> str:
    """Return the remark that tells the perplexity of the base; empty where that is not known."""
    return "" if perplexity is None else f"{perplexity:.3f} of the base"
