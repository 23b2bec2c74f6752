"""The weights of tokens are those of a literal computation: the whole model in float64, gradients by autograd."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from qtoolkit.errors import UnsupportedModelError
from qtoolkit.models.opening import open_checkpoint
from qtoolkit.records import ProgressEvent
from qtoolkit.stream import backward, token_weights
from qtoolkit.stream.blocks import StreamedModel
from qtoolkit.stream.token_weights import measure_token_weights, normalized
from qtoolkit.texts.self_calibration import draw
from tests.sample_models import random_model

TOKENS = torch.arange(3, 123).reshape(3, 40)
LLAMA = [
    ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    ("self_attn.o_proj",),
    ("mlp.gate_proj", "mlp.up_proj"),
    ("mlp.down_proj",),
]
GROUPS = {
    "llama": LLAMA,
    "llama_tied": LLAMA,
    "gemma3_text": LLAMA,
    "gpt2": [("attn.c_attn",), ("attn.c_proj",), ("mlp.c_fc",), ("mlp.c_proj",)],
    "opt": [LLAMA[0], ("self_attn.out_proj",), ("fc1",), ("fc2",)],
    "mixtral": LLAMA[:2],
}


def streamed_of(architecture: str) -> StreamedModel:
    model = random_model(architecture, torch.float32)
    checkpoint = open_checkpoint(model, revision=None, token=None, tokenizer=None, on_progress=lambda event: None)
    return StreamedModel(checkpoint, device="cpu", dtype=torch.float32)


def measured(architecture: str, on_progress: Callable[[ProgressEvent], None]) -> dict[tuple[str, ...], torch.Tensor]:
    layers = [name for group in GROUPS[architecture] for name in group]
    if architecture == "mixtral":
        layers += [f"mlp.experts.{expert}.{name}" for expert in range(4) for name in ("w1", "w2", "w3")]
    return measure_token_weights(streamed_of(architecture), [layers] * 2, TOKENS, None, on_progress)


def literal(architecture: str) -> dict[tuple[str, ...], torch.Tensor]:
    """One sample after the other through the whole model, and loops over the layers of each group."""
    # torch multiplies the matrices of experts in no wider type.
    dtype = torch.float32 if architecture == "mixtral" else torch.float64
    model: Any = random_model(architecture, torch.float32).to(dtype).eval()
    path = next(name for name, module in model.named_modules() if isinstance(module, nn.ModuleList))
    groups = [tuple(f"{path}.{block}.{name}" for name in group) for block in range(2) for group in GROUPS[architecture]]
    outputs: dict[str, torch.Tensor] = {}
    for name in [name for group in groups for name in group]:
        model.get_submodule(name).register_forward_hook(lambda m, i, z, name=name: outputs.__setitem__(name, z))
    uniform = torch.rand(TOKENS.shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    squares: dict[tuple[str, ...], list[torch.Tensor]] = {group: [] for group in groups}
    for sample, tokens in enumerate(TOKENS):
        logits = model(tokens[None]).logits[0]
        labels = draw(logits.detach().softmax(-1).cumsum(-1), uniform[sample])
        loss = -logits.log_softmax(-1)[torch.arange(40), labels].sum()
        gradients = dict(zip(outputs, torch.autograd.grad(loss, [*outputs.values()]), strict=True))
        for group in groups:
            own = torch.cat([gradients[name].reshape(40, -1) for name in group], dim=1)
            squares[group].append((own.double() ** 2).mean(1))
    weights = {}
    for group, means in squares.items():
        value = torch.stack(means)
        # Of 120 tokens, 99 % are 118.8: the highest is lowered to the one before.
        value = value.clamp(max=value.flatten().sort().values[118])
        weights[group] = value / value.mean()
    return weights


@pytest.mark.parametrize("architecture", GROUPS)
def test_they_are_the_squared_gradients_of_the_outputs(architecture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Two batches, of two samples and of one, and two parts of logits for each sample.
    monkeypatch.setattr(token_weights, "weighed_at_once", lambda *sizes: 2)
    monkeypatch.setattr(backward, "tokens_with_logits", lambda vocab_size: 30)
    events: list[ProgressEvent] = []
    found, expected = measured(architecture, events.append), literal(architecture)
    assert found.keys() == expected.keys()
    for group, wanted in expected.items():
        assert found[group].dtype == torch.float32
        torch.testing.assert_close(found[group].double(), wanted, rtol=2e-3, atol=1e-5)
        assert wanted.std() > 0.05
    assert {event.phase for event in events} == {"weigh"}
    done = [event.done for event in events]
    assert done == sorted(done) and done[-1] == events[-1].total == 4


def test_the_highest_weights_are_lowered() -> None:
    squares = torch.ones(4, 100)
    squares[0, :3] = torch.tensor([2.0, 100.0, 1000.0])
    squares[3, -1] = 500.0
    # Of 400 weights 4 lie above the quantile 0.99, and the highest of the others is 1.
    assert torch.equal(normalized(squares, "layer"), torch.ones(4, 100))
    squares[1, :6] = 3.0
    weights = normalized(squares, "layer")
    assert weights.max() == weights[1, 0] == weights[0, 2] and weights[0, 0] / weights[1, 0] == pytest.approx(2 / 3)
    assert weights.double().mean().item() == pytest.approx(1, abs=1e-6)


def test_without_a_gradient_all_tokens_count_alike() -> None:
    assert torch.equal(normalized(torch.zeros(2, 30), "layer"), torch.ones(2, 30))


def test_gradients_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(
        UnsupportedModelError, match=r"gradients of layer\.x hold NaN or infinity, .*: leave out token_w"
    ):
        normalized(torch.tensor([[1.0, torch.inf]]), "layer.x")


def test_a_model_that_computes_nan_is_refused_where_it_does() -> None:
    streamed = streamed_of("llama")
    names = [f"model.layers.1.mlp.{layer}_proj.weight" for layer in ("up", "down")]
    large = {name: torch.full_like(streamed.tensors[name][...], 3e38) for name in names}
    streamed.tensors = {**streamed.tensors, **large}
    with pytest.raises(UnsupportedModelError, match=r"NaN or infinity in float32 at model\.layers\.1, so that no grad"):
        measure_token_weights(streamed, [["mlp.up_proj"]] * 2, TOKENS, None, lambda event: None)
