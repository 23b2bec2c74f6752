"""What rounding a layer is predicted to cost is what it costs; it is measured once."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import qtoolkit as qt
from qtoolkit.errors import CheckpointError
from qtoolkit.methods import Layer, get_method
from qtoolkit.models.checkpoint import Checkpoint
from qtoolkit.models.opening import open_checkpoint
from qtoolkit.planning.layers import layers_to_quantize
from qtoolkit.records import ProgressEvent, Sensitivity
from qtoolkit.sensitivity import NUM_SAMPLES, SEQ_LEN, measure_sensitivity
from qtoolkit.tensor.hessian import Hessian
from qtoolkit.texts.calibration_text import load_calibration
from tests.methods.gptq.jobs import TEXTS, gptq
from tests.sample_models import random_model

pytestmark = pytest.mark.slow

CONFIG = gptq()


def open_loaded(model: Any, tokenizer: Any) -> Checkpoint:
    return open_checkpoint(model, revision=None, token=None, tokenizer=tokenizer, on_progress=lambda event: None)


def layers_of(checkpoint: Checkpoint) -> tuple[Layer, ...]:
    return layers_to_quantize(checkpoint, get_method("gptq"), CONFIG, "cpu")


def measure(checkpoint: Checkpoint, **options: Any) -> Sensitivity:
    layers = layers_of(checkpoint)
    return measure_sensitivity(
        checkpoint, get_method("gptq"), CONFIG, dict.fromkeys(layers, (2, 3, 4, 8)), device="cpu", **options
    )


@pytest.fixture
def checkpoint(tiny_llama: Path) -> Checkpoint:
    """A random Llama in float32 that is sure of something: weights three times as large."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    model = random_model("llama", torch.float32, vocab_size=len(tokenizer))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.mul_(3)
    return open_loaded(model, tokenizer)


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def direct(checkpoint: Checkpoint, tokens: torch.Tensor, layers: list[Layer], bits: int) -> list[float]:
    """KL(full || one layer quantized), mean over tokens, from both distributions."""
    model = random_model("llama", torch.float32, vocab_size=checkpoint.config.vocab_size)
    model.load_state_dict(dict(checkpoint.tensors))
    losses = []
    with torch.no_grad():
        before = model(tokens).logits.log_softmax(-1)
        for layer in layers:
            weight = model.get_submodule(layer.name).weight
            kept = weight.clone()
            inputs = Hessian(layer.in_features, torch.device("cpu"))
            hook = model.get_submodule(layer.name).register_forward_pre_hook(
                lambda module, args, to=inputs: to.add(args[0])
            )
            model(tokens)
            hook.remove()
            ((changed,),) = get_method("gptq").corrected([kept], inputs, [CONFIG.choosing(bits)])
            weight.copy_(changed)
            losses.append(
                nn.functional.kl_div(model(tokens).logits.log_softmax(-1), before, log_target=True, reduction="sum")
            )
            weight.copy_(kept)
    return [float(loss) / tokens.numel() for loss in losses]


def test_the_predicted_loss_is_the_measured_one(checkpoint: Checkpoint) -> None:
    options: dict[str, Any] = {"num_samples": NUM_SAMPLES, "seq_len": SEQ_LEN, "max_seq_len": None}
    text = load_calibration(
        TEXTS, checkpoint.tokenizer, **options, vocab_size=checkpoint.config.vocab_size, on_progress=lambda event: None
    )
    found = measure(checkpoint)
    assert (found.text, found.num_samples, found.seq_len) == ("4 texts", len(text.tokens), SEQ_LEN)
    layers = layers_of(checkpoint)
    assert [layer.name for layer in layers] == list(found.by_layer())
    ratios = []
    for layer, measured in zip(layers[::4], direct(checkpoint, text.tokens, list(layers[::4]), 4), strict=True):
        loss = found.by_layer()[layer.name][4]
        assert abs(loss.loss - measured) < 5 * loss.standard_error + 0.2 * measured, layer.name
        ratios.append(loss.loss / measured)
    assert 0.6 < sum(ratios) / len(ratios) < 1.6


def test_fewer_bits_cost_more(checkpoint: Checkpoint) -> None:
    for own in measure(checkpoint).by_layer().values():
        losses = [own[bits].loss for bits in (2, 3, 4, 8)]
        assert losses == sorted(losses, reverse=True) and losses[0] > 100 * losses[-1] > 0


def test_it_is_measured_once(checkpoint: Checkpoint) -> None:
    events: list[ProgressEvent] = []
    first = measure(checkpoint, on_progress=events.append)
    assert {event.phase for event in events} == {"calibrate", "measure"}
    events.clear()
    assert measure(checkpoint, on_progress=events.append) == first
    assert "measure" not in {event.phase for event in events}


def test_a_damaged_file_of_the_cache_is_replaced(checkpoint: Checkpoint, tmp_path: Path) -> None:
    first = measure(checkpoint)
    (file,) = (tmp_path / "cache").rglob("*.json")
    file.write_text('{"record": "Sensitivity"}')
    assert measure(checkpoint).losses == first.losses


def test_other_weights_are_measured_anew(checkpoint: Checkpoint) -> None:
    first = measure(checkpoint)
    changed = {name: tensor * 1.5 for name, tensor in checkpoint.tensors.items()}
    assert measure(replace(checkpoint, tensors=changed)).losses != first.losses


def test_a_weight_that_is_no_number_is_refused(checkpoint: Checkpoint) -> None:
    name = "model.layers.1.mlp.up_proj.weight"
    tensors = {**checkpoint.tensors, name: torch.full_like(checkpoint.tensors[name][...], torch.nan)}
    with pytest.raises(CheckpointError, match=f"{name} of LlamaForCausalLM holds NaN"):
        measure(replace(checkpoint, tensors=tensors))


@pytest.mark.parametrize("config", [qt.AbsMax(bits=4), qt.ZeroPoint(bits=4, granularity="group")], ids=str)
def test_rounded_is_what_the_method_stores(config: Any) -> None:
    weight = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    method, layer = get_method(config.method), Layer("m.layers.0.l", 64, 64, False, 4, "cpu")
    rounded = method.rounded(weight, layer, config)
    assert 0 < (rounded - weight).abs().max() < weight.abs().max() / 4
    made: Any = method.build(layer, config, torch.float32)
    made.load_state_dict(method.quantize_weight(weight, layer, config))
    assert torch.equal(rounded, made.dequantize())
