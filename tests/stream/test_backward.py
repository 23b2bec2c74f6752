"""Gradients block by block are those of the whole model."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest
import torch
from torch import nn

from qtoolkit.models.opening import open_checkpoint
from qtoolkit.records import ProgressEvent
from qtoolkit.stream.backward import LoadedBlock, run_backward
from qtoolkit.stream.blocks import StreamedModel
from qtoolkit.texts.self_calibration import draw
from tests.sample_models import random_model

SEED, TOKENS = 3, torch.arange(3, 83).reshape(2, 40)
LAYERS = {
    "llama": ["self_attn.v_proj", "mlp.down_proj"],
    "llama_tied": ["self_attn.q_proj"],
    "gemma2": ["mlp.up_proj"],
    "gpt2": ["attn.c_proj", "mlp.c_fc"],
    "opt": ["fc1"],
    "falcon": ["mlp.dense_h_to_4h"],
    "mixtral": ["self_attn.o_proj"],
}


class Recorder:
    """Keeps the gradients of some layers' weights, by sample and name."""

    def __init__(self, layers: list[str]) -> None:
        self.gradients: dict[tuple[int, str], torch.Tensor] = {}
        self._layers = layers
        self._names: list[str] = []

    @contextmanager
    def watching(self, block: LoadedBlock) -> Iterator[list[torch.Tensor]]:
        self._names = [f"{block.name}.{layer}" for layer in self._layers]
        yield [block.module.get_submodule(layer).weight.requires_grad_() for layer in self._layers]

    def add(self, samples: slice, gradients: Sequence[torch.Tensor | None]) -> None:
        found = zip(self._names, gradients, strict=True)
        self.gradients |= {(samples.start, name): gradient.clone() for name, gradient in found if gradient is not None}


def streamed_of(architecture: str) -> StreamedModel:
    model = random_model(architecture, torch.float32)
    checkpoint = open_checkpoint(model, revision=None, token=None, tokenizer=None, on_progress=lambda event: None)
    return StreamedModel(checkpoint, device="cpu", dtype=torch.float32)


@pytest.mark.parametrize("architecture", LAYERS)
def test_gradients_are_those_of_the_whole_model(architecture: str) -> None:
    found, events = Recorder(LAYERS[architecture]), list[ProgressEvent]()
    streamed = streamed_of(architecture)
    run_backward(streamed, TOKENS, found, events.append, phase="measure", states=[], seed=SEED)
    assert (events[-1].done, events[-1].total) == (4, 4)
    model, uniform = (
        random_model(architecture, torch.float32),
        torch.rand(2, 40, generator=torch.Generator().manual_seed(SEED)),
    )
    names = [f"{block}.{layer}" for block in streamed.block_names for layer in LAYERS[architecture]]
    for sample, tokens in enumerate(TOKENS):
        logits = model(tokens[None]).logits[0]
        labels = draw(logits.detach().softmax(-1).cumsum(-1), uniform[sample])
        loss = nn.functional.cross_entropy(logits, labels, reduction="sum")
        weights = [model.get_submodule(name).weight for name in names]
        for name, expected in zip(names, torch.autograd.grad(loss, weights), strict=True):
            gradient = found.gradients[sample, name]
            torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-5 * float(expected.abs().max()))


def test_an_expert_that_a_sample_goes_past_has_no_gradient() -> None:
    found = Recorder([f"mlp.experts.{expert}.w1" for expert in range(4)])
    streamed = streamed_of("mixtral")
    run_backward(streamed, TOKENS[:, :1], found, lambda event: None, phase="measure", states=[])
    # Two of four experts see the one token.
    counts = [
        sum(name.startswith(f"{block}.") and sample == 0 for sample, name in found.gradients)
        for block in streamed.block_names
    ]
    assert counts == [2, 2]
