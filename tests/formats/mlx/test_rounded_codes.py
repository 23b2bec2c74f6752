"""absmax, zero-point and asymmetric GPTQ as MLX: exact where codes are symmetric, told how far off where not."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import qtoolkit as qt
from qtoolkit.errors import ConfigError
from qtoolkit.kernels import QuantizedLinear, TiedHead
from qtoolkit.measure.footprint import memory_footprint
from tests.methods.gptq.jobs import gptq
from tests.sample_models import plain_logits, random_model

TOKENS = torch.arange(2, 34).reshape(2, 16)
SHORT: dict[str, Any] = {"calibration": "self", "num_samples": 2, "seq_len": 32, "refine": 0, "qep_alpha": 0.0}
CONFIGS: dict[str, Any] = {
    "absmax": qt.AbsMax(format="mlx", embeddings=8),
    "absmax, mixed": qt.AbsMax(
        format="mlx", granularity="channel", rules={"*.down_proj": {"bits": 4, "granularity": "group"}}
    ),
    "zero-point": qt.ZeroPoint(format="mlx", lossy=True, bits=4, granularity="group", embeddings=8),
    "GPTQ": gptq(format="mlx", sym=False, lossy=True, bits=4, **SHORT),
}
EXACT = ("absmax", "absmax, mixed")
WIDE = {"intermediate_size": 256}  # two groups of 128


@pytest.fixture(scope="module", params=CONFIGS)
def made(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, qt.QuantizedModel, Path]:
    folder = tmp_path_factory.mktemp("mlx") / "out"
    model = random_model("llama_tied", **WIDE)
    return request.param, qt.quantize(model, CONFIGS[request.param], device="cpu", output=folder), folder


def loaded(folder: Path, dtype: str = "auto") -> qt.QuantizedModel:
    result = qt.load(folder, device="cpu", dtype=dtype)
    assert isinstance(result, qt.QuantizedModel)
    return result


def unpacked(words: torch.Tensor, bits: int) -> torch.Tensor:
    """Codes of rows of words, one bit after the other from the lowest, as MLX's documentation says."""
    numbers = words.view(torch.int32).to(torch.int64) & 0xFFFFFFFF
    ones = (numbers[..., None] >> torch.arange(32)) & 1
    return (ones.flatten(1).unflatten(1, (-1, bits)) << torch.arange(bits)).sum(-1)


def test_weights_are_those_of_the_stored_numbers(made: tuple[str, qt.QuantizedModel, Path]) -> None:
    _, _, folder = made
    tensors = load_file(folder / "model.safetensors")
    for name, layer in loaded(folder).model.named_modules():
        if isinstance(layer, QuantizedLinear):
            words, scales, biases = (tensors[f"{name}.{part}"] for part in ("weight", "scales", "biases"))
            codes = unpacked(words, words.shape[1] * 32 // layer.in_features)
            size = layer.in_features // scales.shape[1]
            spread = [part.double().repeat_interleave(size, dim=1) for part in (scales, biases)]
            assert torch.equal(layer.dequantize(), (codes * spread[0] + spread[1]).float()), name


def test_symmetric_codes_are_as_in_compressed_tensors(
    made: tuple[str, qt.QuantizedModel, Path], tmp_path: Path
) -> None:
    name, result, _ = made
    if name not in EXACT:
        pytest.skip("compressed-tensors has zero points of its own")
    other = replace(CONFIGS[name], format="compressed-tensors")
    theirs = qt.quantize(random_model("llama_tied", **WIDE), other, device="cpu", output=tmp_path / "out").model
    for key, layer in result.model.named_modules():
        if isinstance(layer, QuantizedLinear):
            same = theirs.get_submodule(key)
            assert isinstance(same, QuantizedLinear) and torch.equal(layer.dequantize(), same.dequantize()), key


def test_the_largest_change_is_told_and_not_exceeded(made: tuple[str, qt.QuantizedModel, Path]) -> None:
    name, result, folder = made
    planned = qt.plan(random_model("llama_tied", **WIDE), CONFIGS[name], device="cpu").notes
    told = [note for note in result.report.notes if "moves weights by" in note]
    assert any("by up to 0.2 % of the range of their group" in note for note in planned) is (name not in EXACT)
    assert len(told) == (name not in EXACT)
    if told:
        found = re.search(r"moves weights by (\S+) at most, (\S+)% of a step between codes, in (\S+)$", told[0])
        assert found is not None
        tensors = load_file(folder / "model.safetensors")
        changes = {}
        for key in (key.removesuffix(".scales") for key in tensors if key.endswith(".scales")):
            scales, biases = tensors[f"{key}.scales"].double(), tensors[f"{key}.biases"].double()
            exact = torch.stack([-zero * scales for zero in range(256)])
            changes[key] = (exact - biases).abs().amin(0).max().item()
        assert changes[found[3]] == max(changes.values())
        assert float(found[1]) == pytest.approx(changes[found[3]], rel=0.05)
        assert 0 < float(found[2]) < 50


def test_every_byte_is_planned(made: tuple[str, qt.QuantizedModel, Path]) -> None:
    name, _, folder = made
    result = loaded(folder)
    plan = qt.plan(random_model("llama_tied", **WIDE), CONFIGS[name], device="cpu")
    assert plan.footprint_after == result.memory.predicted_footprint_after == memory_footprint(result.model)
    tensors = load_file(folder / "model.safetensors")
    assert plan.disk_after == sum(tensor.nbytes for tensor in tensors.values())
    assert isinstance(result.model.get_output_embeddings(), TiedHead) is (CONFIGS[name].embeddings == 8)
    assert "mlx-lm" in {reading.reader for reading in plan.readings if reading.loads}


def test_read_again_it_is_the_same(made: tuple[str, qt.QuantizedModel, Path], tmp_path: Path) -> None:
    name, result, folder = made
    again = loaded(folder)
    assert name == "GPTQ" or again.config == CONFIGS[name]
    assert (again.config.format, getattr(again.config, "lossy", False)) == ("mlx", name not in EXACT)
    assert torch.equal(plain_logits(again.model, TOKENS), plain_logits(result.model, TOKENS))
    again.save(tmp_path / "again")
    first, second = (load_file(place / "model.safetensors") for place in (folder, tmp_path / "again"))
    assert first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def test_mlx_is_told_bits_and_groups_alone(made: tuple[str, qt.QuantizedModel, Path]) -> None:
    name, _, folder = made
    told = json.loads((folder / "config.json").read_text())["quantization"]
    assert all(key in ("bits", "group_size", "mode") or set(told[key]) == {"bits", "group_size"} for key in told)
    down = told.get("model.layers.1.mlp.down_proj", told)
    assert (down["bits"], down["group_size"]) == {"absmax": (8, 128), "absmax, mixed": (4, 64)}.get(
        name, (4, 64 if name == "zero-point" else 32)
    )


def test_gradients_reach_the_inputs_through_minima(made: tuple[str, qt.QuantizedModel, Path]) -> None:
    layer = loaded(made[2], "float32").model.get_submodule("model.layers.0.mlp.down_proj")
    assert isinstance(layer, QuantizedLinear)
    x = torch.randn(3, layer.in_features, requires_grad=True)
    layer(x).sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, layer.dequantize().sum(0).expand(3, -1), rtol=1e-4, atol=1e-5)


REFUSED: dict[str, tuple[Any, dict[str, Any], str]] = {
    "zero-point unasked": (
        qt.ZeroPoint,
        {"format": "mlx"},
        r"give lossy=True, symmetric codes, or format='compressed-",
    ),
    "GPTQ unasked": (gptq, {"format": "mlx", "sym": False}, r"asymmetric codes are not written as mlx unasked"),
    "nothing to lose": (gptq, {"format": "mlx", "lossy": True}, r"leave lossy out, or give format='mlx' and sym=False"),
    "zero points held": (
        qt.ZeroPoint,
        {"lossy": True},
        r"'native' loses nothing: leave lossy out, or give format='mlx'",
    ),
    "groups": (qt.AbsMax, {"format": "mlx", "granularity": "group", "group_size": 16}, r"32, 64 or 128, not 16$"),
}


@pytest.mark.parametrize(("kind", "options", "said"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused_before_work(kind: Any, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        kind(**options)


@pytest.mark.parametrize(("architecture", "said"), [("gpt2", "a Conv1D"), ("mixtral", "beside experts in one tensor")])
def test_layers_that_it_does_not_hold_are_refused(architecture: str, said: str) -> None:
    with pytest.raises(ConfigError, match=rf"format 'mlx' does not hold \S+ \({said}.*: exclude it"):
        qt.plan(random_model(architecture), replace(CONFIGS["absmax"], exclude=("lm_head", "experts.*")), device="cpu")
