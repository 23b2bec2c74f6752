"""Layers aim at weights that make good what quantized layers before them have changed, as QEP and LoaQ define them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import qtoolkit as qt
from qtoolkit.errors import ConfigError
from qtoolkit.methods.gptq import layer_groups
from qtoolkit.methods.gptq.correction import Correction
from qtoolkit.methods.gptq.layer_groups import GPTQBlocks
from qtoolkit.methods.gptq.solver import column_order, factor
from qtoolkit.models.opening import open_checkpoint
from qtoolkit.stream import run
from qtoolkit.stream.blocks import StreamedModel
from qtoolkit.stream.groups import GroupInputs
from qtoolkit.stream.journal import Journal
from tests.methods.gptq.jobs import gptq
from tests.sample_models import random_model

pytestmark = pytest.mark.slow

# Enough for whole corrections: eight for each of the 128 inputs of the widest layer.
TOKENS = (3 + torch.arange(1200) * 7 % 250).reshape(3, 400)
LAYERS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
NAMES = [f"{'self_attn' if name[0] in 'qkvo' else 'mlp'}.{name}" for name in LAYERS]
ALPHA, DAMP = 0.5, 0.01


def damped(xq: np.ndarray) -> np.ndarray:
    hessian = xq.T @ xq
    return hessian + DAMP * hessian.diagonal().mean() * np.eye(len(hessian))


@pytest.mark.parametrize("order", ["activation", "natural"])
@pytest.mark.parametrize("residual", [False, True], ids=["inputs", "residual stream"])
def test_the_target_is_the_closed_form(residual: bool, order: str) -> None:
    generator = torch.Generator().manual_seed(3)
    x, noise, r, change = (torch.randn(2, 2600, 24, generator=generator) for _ in range(4))
    xq = x + 0.3 * noise + 0.2 * x.roll(1, dims=-1)
    weight = torch.randn(24, 24, generator=generator)  # W[out, in]
    rq = r - 0.4 * x + 0.1 * change
    lacking = (r + x @ weight.T) - (rq + xq @ weight.T)
    batches = zip(x, xq, lacking, strict=True)
    correction = Correction(24, torch.device("cpu"))
    for one, other, lacks in batches:
        correction.add(GroupInputs(other, lacking=lacks) if residual else GroupInputs(other, exact=one))
    wide, exact, w = (tensor.flatten(0, -2).double().numpy() for tensor in (xq, x, weight))
    columns = column_order(torch.from_numpy((wide**2).sum(0)).float(), order)
    lower, diagonal, _ = factor(torch.from_numpy(wide.T @ wide).float(), columns, DAMP)
    found = correction.applied(weight.T.contiguous(), ALPHA, lower, diagonal, columns)
    aim = (exact - wide) @ w.T
    if residual:
        aim = aim + (r - rq).flatten(0, 1).double().numpy()
    wanted = w.T + ALPHA * np.linalg.solve(damped(wide), wide.T @ aim)
    assert np.abs(wanted - w.T).max() > 0.05
    np.testing.assert_allclose(found.numpy(), wanted, atol=2e-5)


class Spy(layer_groups._Group):
    def finish(self, weights: Mapping[str, torch.Tensor]) -> Any:
        targets = self._method.targets  # type: ignore[attr-defined]

        def kept(weight: torch.Tensor, *args: Any) -> torch.Tensor:
            target = Correction.applied(self._inputs._correction, weight, *args)
            targets.update(zip(self._names, target.T.split([len(value) for value in weights.values()]), strict=True))
            return target

        self._inputs._correction.applied = kept  # type: ignore[method-assign]
        return super().finish(weights)


class Spying(GPTQBlocks):
    """Keeps the target of each layer, and the weight that it became."""

    def __init__(self, config: qt.GPTQ) -> None:
        super().__init__(config, "cpu", torch.float32)
        self.targets: dict[str, torch.Tensor] = {}

    def start(self, names: Sequence[str], in_features: int) -> Spy:
        return Spy(self, names, in_features)


class TwoStreams:
    """A block of Llama in float64, run literally: each layer's inputs and the stream around it."""

    def __init__(self, block: nn.Module, arguments: dict[str, Any]) -> None:
        self.block, self.arguments = block, arguments

    def run(self, hidden: torch.Tensor) -> tuple[dict[str, np.ndarray], torch.Tensor]:
        seen: dict[str, Any] = {}

        def keep(name: str) -> Any:
            return lambda module, args, kwargs: seen.update({name: args[0]})

        hooks = [
            module.register_forward_pre_hook(keep(name), with_kwargs=True)
            for name, module in self.block.named_modules()
            if name in NAMES or name == "post_attention_layernorm"
        ]
        with torch.no_grad():
            output = self.block(hidden, **self.arguments)
        for hook in hooks:
            hook.remove()
        output = output[0] if isinstance(output, tuple) else output
        return seen, output


def literal_targets(
    blocks: Sequence[nn.Module],
    arguments: dict[str, Any],
    hidden: torch.Tensor,
    weights: Mapping[str, torch.Tensor],
    *,
    sequential: bool,
) -> dict[str, np.ndarray]:
    """The target of every layer, float64: full precision beside what the blocks become, layer by layer."""
    exact = quantized = hidden
    targets = {}
    for index, block in enumerate(blocks):
        streams = TwoStreams(block, arguments)
        seen, after = streams.run(exact)
        originals = {name: block.get_submodule(name).weight.detach().clone() for name in NAMES}
        for names in (NAMES[:3], NAMES[3:4], NAMES[4:6], NAMES[6:]):
            now, _ = streams.run(quantized)
            flat = {name: value.flatten(0, -2).numpy() for name, value in now.items()}
            for name in names:
                x, xq, w = seen[name].flatten(0, -2).numpy(), flat[name], originals[name].numpy()
                aim = (x - xq) @ w.T
                if name == "self_attn.o_proj":
                    aim = aim + (exact - quantized).flatten(0, -2).numpy()
                if name == "mlp.down_proj":
                    residual = seen["post_attention_layernorm"] - now["post_attention_layernorm"]
                    aim = aim + residual.flatten(0, -2).numpy()
                full = f"model.layers.{index}.{name}"
                targets[full] = w + ALPHA * np.linalg.solve(damped(xq), xq.T @ aim).T
            if sequential:
                for name in names:
                    block.get_submodule(name).weight.data = weights[f"model.layers.{index}.{name}"].double()
        for name in NAMES:
            block.get_submodule(name).weight.data = weights[f"model.layers.{index}.{name}"].double()
        quantized = streams.run(quantized)[1]
        exact = after
    return targets


@pytest.mark.parametrize("at_once", [2, 3], ids=["two batches", "one batch"])
@pytest.mark.parametrize("sequential", [True, False])
def test_targets_of_a_model_are_those_of_two_literal_streams(
    sequential: bool, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "samples_at_once", lambda *sizes: at_once)
    model = random_model("llama", torch.float32)
    checkpoint = open_checkpoint(model, revision=None, token=None, tokenizer=None, on_progress=lambda event: None)
    streamed = StreamedModel(checkpoint, device="cpu", dtype=torch.float32)
    method = Spying(gptq(bits=3, qep_alpha=ALPHA, damp_percent=DAMP, true_sequential=sequential, refine=0))
    done = run.quantize_blocks(streamed, [NAMES] * 2, TOKENS, method, Journal(None, {}), lambda event: None, {})
    tensors = {key: value for block in done for key, value in block.tensors.items()}
    weights = {}
    for name in method.targets:
        own = {key.removeprefix(f"{name}."): value for key, value in tensors.items() if key.startswith(f"{name}.")}
        weights[name] = method.dequantize(name, own)
    before = {name: model.get_submodule(name).weight.detach().clone() for name in method.targets}
    wide = model.double()
    hidden = wide.model.embed_tokens(TOKENS).detach()
    positions = torch.arange(TOKENS.shape[1])[None]
    arguments = {"position_embeddings": wide.model.rotary_emb(hidden, positions), "attention_mask": None}
    wanted = literal_targets(wide.model.layers, arguments, hidden, weights, sequential=sequential)
    assert method.targets.keys() == wanted.keys()
    for name, target in method.targets.items():
        np.testing.assert_allclose(target.numpy(), wanted[name], atol=2e-4, err_msg=name)
    originals = {name: weight.double().numpy() for name, weight in before.items()}
    changed = max(np.abs(target - originals[name]).max() for name, target in wanted.items())
    assert changed > 2e-3


@pytest.mark.parametrize("value", [-0.1, 1.5, float("nan")])
def test_shares_are_between_none_and_all(value: float) -> None:
    with pytest.raises(ConfigError, match=r"qep_alpha must lie between 0 \(off\) and 1, got"):
        qt.GPTQ(qep_alpha=value)


def test_experts_make_nothing_good_and_the_plan_and_the_report_say_so() -> None:
    config = qt.GPTQ(calibration="self", num_samples=4, seq_len=32, group_size=32, qep_alpha=0.5)
    result = qt.quantize(random_model("mixtral"), config, device="cpu")
    calibration = result.report.calibration
    assert calibration is not None
    apart = {layer.name for layer in calibration.layers if layer.corrected is False}
    assert len(apart) == 24 and all(".experts." in name for name in apart)
    assert "not corrected" in str(calibration)
    assert any("experts make nothing good" in note for note in qt.plan(random_model("mixtral"), config).notes)


@pytest.mark.parametrize(("tokens", "share"), [(24, 0.0), (20, 0.0), (24 + 84, 0.5), (8 * 24, 1.0), (5000, 1.0)])
def test_few_tokens_correct_less(tokens: int, share: float) -> None:
    generator = torch.Generator().manual_seed(1)
    xq, x = (torch.randn(tokens, 24, generator=generator) for _ in range(2))
    weight = torch.randn(24, 8, generator=generator)  # [in, out]
    correction = Correction(24, torch.device("cpu"))
    correction.add(GroupInputs(xq, exact=x))
    columns = torch.arange(24)
    lower, diagonal, _ = factor(xq.T @ xq, columns, DAMP)
    change = correction.applied(weight, ALPHA, lower, diagonal, columns) - weight
    wide, exact = xq.double().numpy(), x.double().numpy()
    whole = ALPHA * np.linalg.solve(damped(wide), wide.T @ (exact - wide) @ weight.double().numpy())
    np.testing.assert_allclose(change.numpy(), share * whole, atol=1e-3)
    assert correction.is_known == (share > 0)


def test_tokens_count_by_their_weights() -> None:
    generator = torch.Generator().manual_seed(2)
    # More tokens than are multiplied at one time; some count for nothing.
    xq, x = (torch.randn(5000, 24, generator=generator) for _ in range(2))
    weights = (torch.rand(5000, generator=generator) - 0.2).clamp(min=0) * torch.linspace(0, 5, 5000)
    correction = Correction(24, torch.device("cpu"))
    for some in (slice(0, 4500), slice(4500, 5000)):
        correction.add(GroupInputs(xq[some], exact=x[some], weights=weights[some]))
    target = correction.applied(torch.eye(24), 1.0, torch.eye(24), torch.ones(24), torch.arange(24))
    wide, exact = xq.double().numpy(), x.double().numpy()
    wanted = wide.T @ np.diag(weights.double().numpy()) @ (exact - wide)
    np.testing.assert_allclose(target.numpy() - np.eye(24), wanted, atol=1e-5 * np.abs(wanted).max())


@pytest.mark.parametrize("at_once", [2, 3], ids=["two batches", "one batch"])
def test_after_a_block_that_stays_as_it_is_there_is_nothing_to_make_good(
    at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "samples_at_once", lambda *sizes: at_once)
    model = random_model("llama", torch.float32)
    checkpoint = open_checkpoint(model, revision=None, token=None, tokenizer=None, on_progress=lambda event: None)
    streamed = StreamedModel(checkpoint, device="cpu", dtype=torch.float32)
    method = Spying(gptq(bits=3, qep_alpha=ALPHA, refine=0))
    run.quantize_blocks(streamed, [[], NAMES], TOKENS, method, Journal(None, {}), lambda event: None, {})
    assert len(method.targets) == len(NAMES)
    for name in NAMES:
        full = f"model.layers.1.{name}"
        change = (method.targets[full] - model.get_submodule(full).weight).abs().max()
        assert (change < 1e-4) == (name in NAMES[:3]), name


@pytest.mark.parametrize(("repeats", "few"), [(1, True), (40, False)])
def test_a_text_that_is_shorter_than_asked_for_is_told_to_be_few(tiny_llama: Path, repeats: int, few: bool) -> None:
    text = " ".join(f"The bridge of town {number} was seen by {number + 1} others." for number in range(20))
    config = gptq(calibration=[text] * repeats, num_samples=64, seq_len=64, refine=0)
    assert not any("qep_alpha" in note for note in qt.plan(tiny_llama, config, device="cpu").notes)
    notes = qt.quantize(tiny_llama, config, device="cpu").report.notes
    assert any("tokens are few for layers of 128 inputs" in note for note in notes) == few
