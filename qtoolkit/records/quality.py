"""Record how much quality a model lost, and how fast it runs."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar

from qtoolkit.records.base import Record, Row, note_rows, row_if
from qtoolkit.records.memory import PeakMemory
from qtoolkit.units import format_bytes, format_count, format_seconds

# What sums of a few thousand float64 numbers are rounded by, relative to them.
_ROUNDING = 1e-12


@dataclass(frozen=True)
class SpeedReport(Record):
    """Hold how fast a model reads a prompt and generates; medians, with the slowest and the fastest run.

    Attributes:
        device: where it ran, "cpu" or "cuda:0".
        prompt_tokens: tokens of the prompt.
        new_tokens: tokens generated in each run.
        num_runs: measured runs, after one warm-up run.
        first_token_seconds: from the call to the first new token.
        tokens_per_second: new tokens per second after the first one.
        tokens_per_second_range: of the slowest and the fastest run.
        prompt_tokens_per_second: tokens of the prompt per second until the first new token.
        prompt_tokens_per_second_range: of the slowest and the fastest run.
        peak: memory of the process during the runs.
    """

    device: str
    prompt_tokens: int
    new_tokens: int
    num_runs: int
    first_token_seconds: float
    tokens_per_second: float
    tokens_per_second_range: tuple[float, ...]
    prompt_tokens_per_second: float
    prompt_tokens_per_second_range: tuple[float, ...]
    peak: PeakMemory | None = None

    def rows(self) -> tuple[Row, ...]:
        runs = f"{self.num_runs} runs after 1 to warm up, {self.device}"
        prompt_speed = f"{self.prompt_tokens_per_second:.0f} tokens/s"
        rows = (
            Row("writes", f"{self.tokens_per_second:.1f} tokens/s", _between(self.tokens_per_second_range)),
            Row("reads", prompt_speed, _between(self.prompt_tokens_per_second_range)),
            Row("first token after", format_seconds(self.first_token_seconds), f"a prompt of {self.prompt_tokens}"),
            Row("measured with", f"{self.new_tokens} new tokens", runs),
        )
        if self.peak is None:
            return rows
        return (*rows, Row("peak while writing", format_bytes(self.peak.peak_rss), self.peak.peak_rss_source))


@dataclass(frozen=True)
class QualityReport(Record):
    """Compare a model with its base on the same tokens of a text.

    Each figure `x` has its standard error over the windows of the text in `x_se`; None if there is only one window. All
    but `perplexity` are None if no base was given.

    Attributes:
        model: the user's name for the model.
        base: the user's name for the base.
        text: the user's name for the text; never the text itself.
        text_fingerprint: SHA-256 of its tokens in windows: figures with the same fingerprint can be compared.
        num_windows: windows of the text.
        seq_len: tokens of each window.
        stride: tokens from the beginning of one window to that of the next.
        begins_with: the token before the text of each window, for example a BOS token; empty if there is none.
        num_tokens: tokens that were predicted.
        perplexity: exp of the mean negative log-likelihood of a token.
        base_perplexity: the same of the base.
        perplexity_ratio: `perplexity / base_perplexity`, its error paired over the same tokens.
        kl_divergence: mean of KL(base || model) over tokens, in nats.
        kl_divergence_median, kl_divergence_p99, kl_divergence_max: its median, 99th percentile and maximum.
        kl_divergence_p999: what 99.9 % of the tokens lie below; None if fewer than 10,000 were predicted.
        same_top_p: share of tokens for which base and model predict the same most likely token.
        rms_delta_p: root mean square of the change of the right token's probability.
        noise_floor: KL divergence caused by rounding alone: of the base in its own type from the base in float32.
        seconds: how long it took.
        speed: how fast the model runs; None if it was not measured.
        hardware: name of the processor or GPU that it was measured on; None if that was not requested.
        weights_fingerprint: the measured weights, as `Receipt.weights_fingerprint`; None for a model without a
            receipt, or one not saved yet.
        base_commit_hash: the commit of a base from the Hub; None for other bases.
        notes: what was decided, one line each.
    """

    schema_version: ClassVar[int] = 2
    added_fields: ClassVar[frozenset[str]] = frozenset({"kl_divergence_p999", "kl_divergence_p999_se"})
    words: ClassVar[Mapping[str, str]] = MappingProxyType(
        {
            "perplexity": "how many tokens the model hesitates between, on average; lower is better",
            "KL divergence": "how far its predictions are from those of its base; 0 is the same",
        }
    )

    model: str
    base: str | None
    text: str
    text_fingerprint: str
    num_windows: int
    seq_len: int
    stride: int
    begins_with: str
    num_tokens: int
    perplexity: float
    perplexity_se: float | None
    base_perplexity: float | None = None
    base_perplexity_se: float | None = None
    perplexity_ratio: float | None = None
    perplexity_ratio_se: float | None = None
    kl_divergence: float | None = None
    kl_divergence_se: float | None = None
    kl_divergence_median: float | None = None
    kl_divergence_median_se: float | None = None
    kl_divergence_p99: float | None = None
    kl_divergence_p99_se: float | None = None
    kl_divergence_p999: float | None = None
    kl_divergence_p999_se: float | None = None
    kl_divergence_max: float | None = None
    same_top_p: float | None = None
    same_top_p_se: float | None = None
    rms_delta_p: float | None = None
    rms_delta_p_se: float | None = None
    noise_floor: float | None = None
    noise_floor_se: float | None = None
    seconds: float = 0.0
    speed: SpeedReport | None = None
    hardware: str | None = None
    weights_fingerprint: str | None = None
    base_commit_hash: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def tokens_per_second(self) -> float | None:
        """Return new tokens per second; None if the speed was not measured."""
        return self.speed.tokens_per_second if self.speed else None

    def rows(self) -> tuple[Row, ...]:
        begins = f", each after {self.begins_with}" if self.begins_with else ""
        windows = f"{self.num_windows} windows of {self.seq_len}, stride {self.stride}{begins}"
        return (
            Row("model", self.model),
            *row_if("base", self.base),
            Row("text", self.text, f"{format_count(self.num_tokens)} tokens predicted, {windows}"),
            *(Row(label, value) for label, value in self.figures() if value),
            *(self.speed.rows() if self.speed else ()),
            Row("time", format_seconds(self.seconds)),
            *note_rows(self.notes),
        )

    def headline(self) -> str:
        perplexity = f"perplexity {with_error(self.perplexity, self.perplexity_se)}"
        if self.base_perplexity is not None:
            perplexity += f", of its base {with_error(self.base_perplexity, self.base_perplexity_se)}"
        same = as_percent(self.same_top_p, self.same_top_p_se)
        return f"On {self.text}: {perplexity}" + (f"; the same likeliest token for {same} of tokens." if same else ".")

    def figures(self) -> tuple[tuple[str, str], ...]:
        """Return the name of each figure, and the figure as text with its standard error; "" if not measured."""
        return (
            ("perplexity", with_error(self.perplexity, self.perplexity_se)),
            ("perplexity of the base", with_error(self.base_perplexity, self.base_perplexity_se)),
            ("perplexity ratio", with_error(self.perplexity_ratio, self.perplexity_ratio_se)),
            ("KL divergence, mean", with_error(self.kl_divergence, self.kl_divergence_se, "nats")),
            ("KL divergence, median", with_error(self.kl_divergence_median, self.kl_divergence_median_se, "nats")),
            ("KL divergence, 99 %", with_error(self.kl_divergence_p99, self.kl_divergence_p99_se, "nats")),
            ("KL divergence, 99.9 %", with_error(self.kl_divergence_p999, self.kl_divergence_p999_se, "nats")),
            ("KL divergence, largest", with_error(self.kl_divergence_max, None, "nats")),
            ("noise floor", with_error(self.noise_floor, self.noise_floor_se, "nats")),
            ("same likeliest token", as_percent(self.same_top_p, self.same_top_p_se)),
            ("RMS change of p", as_percent(self.rms_delta_p, self.rms_delta_p_se)),
        )


def with_error(value: float | None, error: float | None, unit: str = "") -> str:
    """Return a figure with as many digits as its standard error allows: `26.61, 0.31` -> `26.61 ± 0.31`.

    The error has two significant digits; one that is float64's rounding alone is left out. The text is empty for None.
    """
    if value is None:
        return ""
    text = f"{value:.4g}"
    if error and math.isfinite(error) and error > _ROUNDING * abs(value):
        digits = max(0, 1 - int(f"{error:e}".partition("e")[2]))
        text = f"{value:.{digits}f} ± {error:.{digits}f}"
    return f"{text} {unit}".strip()


def as_percent(share: float | None, error: float | None) -> str:
    """Return a share and its standard error in percent: `0.921, 0.004` -> `92.10 ± 0.40 %`; empty for None."""
    return with_error(None if share is None else 100 * share, None if error is None else 100 * error, "%")


def _between(ends: tuple[float, ...]) -> str:
    return " to ".join(f"{end:.1f}" for end in ends)
