"""Figures and their standard errors against slow references: a loop, and a bootstrap over windows."""

import pytest
import torch

from qtoolkit.evaluation.statistics import Figure, mean, perplexity, quantile, root_mean_square

pytestmark = pytest.mark.once


@pytest.fixture(scope="module")
def sample() -> tuple[torch.Tensor, torch.Tensor]:
    """Values of 40 windows of 20 to 60 tokens, those of one window alike."""
    generator = torch.Generator().manual_seed(3)
    lengths = torch.randint(20, 61, (40,), generator=generator)
    windows = torch.arange(40).repeat_interleave(lengths)
    level = torch.rand(40, generator=generator)[windows]
    return level + torch.rand(len(windows), generator=generator), windows


def bootstrap(values: torch.Tensor, windows: torch.Tensor, statistic: object, draws: int = 2000) -> float:
    generator = torch.Generator().manual_seed(1)
    parts = [values[windows == index] for index in range(int(windows.max()) + 1)]
    found = []
    for _ in range(draws):
        chosen = torch.randint(len(parts), (len(parts),), generator=generator).tolist()
        found.append(statistic(torch.cat([parts[index] for index in chosen]).double()))  # type: ignore[operator]
    return float(torch.tensor(found).std())


def test_errors_agree_with_a_bootstrap_over_windows(sample: tuple[torch.Tensor, torch.Tensor]) -> None:
    values, windows = sample
    cases = {
        "mean": (mean(values, windows), lambda x: x.mean()),
        "perplexity": (perplexity(values, windows), lambda x: x.mean().exp()),
        "root mean square": (root_mean_square(values, windows), lambda x: x.square().mean().sqrt()),
        "median": (quantile(values, windows, 0.5), lambda x: x.quantile(0.5)),
        "99th percentile": (quantile(values, windows, 0.99), lambda x: x.quantile(0.99)),
    }
    for name, (figure, statistic) in cases.items():
        assert figure.value == pytest.approx(float(statistic(values.double())), rel=1e-6), name  # type: ignore[no-untyped-call]
        # A bootstrap of 200 draws is known to about 5 %.
        assert figure.error == pytest.approx(bootstrap(values, windows, statistic), rel=0.15), name


def test_the_error_is_larger_than_that_of_independent_tokens(sample: tuple[torch.Tensor, torch.Tensor]) -> None:
    values, windows = sample
    independent = values.std() / len(values) ** 0.5
    assert mean(values, windows).error > 2 * independent


def test_the_error_of_windows_of_one_token_is_the_usual_one() -> None:
    values = torch.tensor([1.0, 2.0, 4.0, 9.0])
    assert mean(values, torch.arange(4)).error == pytest.approx(float(values.std() / 2))


@pytest.mark.parametrize("statistic", [mean, perplexity, root_mean_square], ids=lambda function: function.__name__)
def test_one_window_has_no_error(statistic: object) -> None:
    figure: Figure = statistic(torch.tensor([1.0, 2.0]), torch.zeros(2, dtype=torch.int64))  # type: ignore[operator]
    assert figure.error is None


def test_no_change_has_no_error() -> None:
    assert root_mean_square(torch.zeros(4), torch.arange(4)) == Figure(0.0, 0.0)
