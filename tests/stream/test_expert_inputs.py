"""Experts that saw few tokens are calibrated with those of all experts too."""

import pytest
import torch

import qtoolkit as qt
from qtoolkit.models.experts import replace_experts
from qtoolkit.stream.expert_inputs import ExpertInputs
from qtoolkit.tensor.hessian import Hessian
from tests.sample_models import random_model


def test_what_an_expert_would_get_of_the_tokens_of_all() -> None:
    model = random_model("mixtral", torch.float32)
    replace_experts(model)
    mlp = model.model.layers[0].mlp
    x = torch.randn(1, 6, model.config.hidden_size)
    names = [f"experts.{index}.{layer}" for index in range(4) for layer in ("w1", "w3", "w2")]
    inputs = ExpertInputs(mlp, names)
    assert inputs.of("experts.2.w1") is None
    with inputs.noted(), torch.no_grad():
        mlp(x)
    expert = mlp.experts[2]
    seen = inputs.of("experts.2.w3")
    between = inputs.of("experts.2.w2")
    assert seen is not None
    assert between is not None
    assert torch.equal(seen, x[0])
    with torch.no_grad():
        gate, up = x[0] @ expert.w1.weight.T, x[0] @ expert.w3.weight.T
    torch.testing.assert_close(between, gate / (1 + torch.exp(-gate)) * up, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("own", [0, 5])
def test_a_blended_hessian_is_that_of_the_formula(own: int) -> None:
    x, others, k = torch.randn(own, 8), torch.randn(30, 8), 12
    hessian = Hessian(8, torch.device("cpu"))
    hessian.add(x)
    hessian.lean_on(others, k)
    mean_of_own = x.T @ x / max(1, own)
    wanted = (own * mean_of_own + k * (others.T @ others / 30)) / (own + k)
    torch.testing.assert_close(hessian.full() / (own + k), wanted)
    assert hessian.num_inputs == own


def test_an_expert_without_tokens_fits_those_of_the_others() -> None:
    """Nothing is sent to experts 2 and 3."""
    model = random_model("mixtral", torch.float32)
    with torch.no_grad():
        model.model.layers[0].mlp.gate.weight.zero_()
    config = qt.GPTQ(calibration="self", num_samples=8, seq_len=32, group_size=32, refine=0, qep_alpha=0)
    made = qt.quantize(model, config, device="cpu")
    assert made.report.calibration is not None
    unseen = [layer for layer in made.report.calibration.layers if not layer.num_inputs]
    assert len(unseen) == 6
    # The error is that on the tokens of all experts.
    assert all(0 < layer.error < 0.05 for layer in unseen)
    assert any("those of all experts counted as" in note for note in made.report.notes)
