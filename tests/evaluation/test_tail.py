"""The quantile of 99.9 %: as numpy computes it, with an error that covers the truth, and not of a few tokens."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from qtoolkit.evaluation.scoring import Predictor
from qtoolkit.evaluation.statistics import quantile
from qtoolkit.evaluation.token_losses import measure_quality
from qtoolkit.records import QualityReport, ignore_progress
from qtoolkit.texts.windows import Windows

WINDOWS, LENGTH, VOCABULARY = 40, 256, 5


def losses(seed: int) -> torch.Tensor:
    """Values of an exponential distribution, [tokens]: 1 - p of them lie above -log(1 - p)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.empty(WINDOWS * LENGTH, dtype=torch.float64).exponential_(generator=generator)


def test_value_and_error_are_those_of_numpy_with_every_draw_written_out() -> None:
    generator = torch.Generator().manual_seed(1)
    # Windows of other lengths, and values that occur more than once.
    owner = torch.randint(0, 12, (3_000,), generator=generator)
    values = (losses(2)[:3_000] * 50).round() / 50
    draws = torch.randint(12, (200, 12), generator=torch.Generator().manual_seed(0)).tolist()
    for share in (0.0, 0.5, 0.99, 0.999, 1.0):
        parts = [values[owner == window].numpy() for window in range(12)]
        written_out = [np.quantile(np.concatenate([parts[window] for window in draw]), share) for draw in draws]
        found = quantile(values, owner, share)
        assert found.value == pytest.approx(np.quantile(values.numpy(), share), rel=1e-12)
        assert found.error == pytest.approx(np.std(written_out, ddof=1), rel=1e-9)


def test_two_errors_to_either_side_cover_the_truth_in_nine_cases_of_ten() -> None:
    truth = -math.log(0.001)
    owner = torch.arange(WINDOWS).repeat_interleave(LENGTH)
    samples = [quantile(losses(seed), owner, 0.999) for seed in range(40)]
    covered = [abs(value - truth) <= 2 * error for value, error in samples if error is not None]
    assert len(covered) == 40
    assert sum(covered) / 40 >= 0.8
    # Nor are errors so large that they would cover anything: from sample to sample, values vary as much as they say.
    spread = float(np.std([value for value, _ in samples], ddof=1))
    assert float(np.mean([error for _, error in samples])) == pytest.approx(spread, rel=0.4)


def report_of(num_windows: int) -> QualityReport:
    """A random model measured against another one."""
    tokens = torch.randint(VOCABULARY, (num_windows, LENGTH + 1), generator=torch.Generator().manual_seed(4))
    windows = Windows(tokens, first=(1,) * num_windows, name="text", fingerprint="f" * 64, stride=LENGTH + 1)
    base, model = (torch.randn(*tokens.shape, VOCABULARY, generator=torch.Generator().manual_seed(n)) for n in (5, 6))
    return measure_quality(
        windows, Predictor("m", model.__getitem__), Predictor("b", base.__getitem__), ignore_progress
    )


def test_a_report_has_it_from_ten_thousand_tokens_on() -> None:
    long, short = report_of(WINDOWS), report_of(WINDOWS - 1)
    assert (long.num_tokens, short.num_tokens) == (10_240, 9_984)
    assert long.kl_divergence_p99 < long.kl_divergence_p999 < long.kl_divergence_max  # type: ignore[operator]
    assert long.kl_divergence_p999_se > 0  # type: ignore[operator]
    assert (short.kl_divergence_p999, short.kl_divergence_p999_se) == (None, None)
    assert "KL divergence, 99.9 %" in str(long) and "KL divergence, 99.9 %" in long._repr_html_()
    assert "99.9 %" not in str(short)


def test_a_report_that_was_written_before_it_is_read() -> None:
    values: dict[str, Any] = report_of(2).to_dict()
    del values["kl_divergence_p999"], values["kl_divergence_p999_se"]
    assert QualityReport.from_dict(values).kl_divergence_p999 is None
