"""A rounded with the inputs in view moves outputs less than each number rounded by itself."""

import torch

from qtoolkit.tensor.low_rank import damped_factor, rounded


def test_rounding_makes_good_what_it_has_moved() -> None:
    torch.manual_seed(0)
    x = torch.randn(400, 24) + 10 * torch.randn(400, 1)  # [tokens, in]
    a = torch.randn(4, 24)
    factor = damped_factor(x.T @ x)
    own, plain = rounded(a, factor, torch.float8_e4m3fn), a.to(torch.float8_e4m3fn)
    moved = {name: float(((one.float() - a) @ factor).square().sum()) for name, one in (("own", own), ("plain", plain))}
    assert moved["own"] < moved["plain"] / 4
    assert (own.float() - a).abs().max() < 0.5
