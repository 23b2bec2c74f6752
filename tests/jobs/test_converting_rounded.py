"""Codes of absmax, zero-point and int8 W8A8 in the formats that hold them: the same numbers, and the same method."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import qtoolkit as qt
from qtoolkit.errors import ConfigError
from qtoolkit.methods import as_call
from qtoolkit.publishing import read_receipt
from tests.jobs.converted import Array, weights_of
from tests.jobs.test_converting import logits
from tests.sample_models import random_model

GROUPS: dict[str, Any] = {"bits": 4, "granularity": "group", "group_size": 32}
SOURCES: list[Any] = [
    pytest.param(qt.AbsMax(granularity="channel"), ("gptq",), marks=pytest.mark.slow),
    pytest.param(qt.AbsMax(format="native"), ("gptq", "mlx", "gptq_v2"), marks=pytest.mark.slow),
    (qt.AbsMax(**GROUPS, full_range=True, rules={"*.down_proj": {"bits": 8}}), ("gptq", "mlx")),
    pytest.param(qt.AbsMax(**GROUPS | {"group_size": 16}, format="native"), ("gptq",), marks=pytest.mark.slow),
    pytest.param(qt.ZeroPoint(**GROUPS), ("gptq_v2",), marks=pytest.mark.slow),
    pytest.param(
        qt.ZeroPoint(granularity="channel", format="compressed-tensors"), ("gptq_v2",), marks=pytest.mark.slow
    ),
    (qt.W8A8(), ("compressed-tensors", "gptq", "mlx", "native")),
]


def stored_weights(folder: Path) -> dict[str, Array]:
    """W[out, in] of a source, in float64: the integers of W8A8 are no strings of bits."""
    tensors = load_file(folder / "model.safetensors")
    shapes = {name: (out, size) for name, (out, size) in dense_shapes(folder).items()}
    if any(tensor.dtype == torch.int8 for name, tensor in tensors.items() if f"{name}_scale" in tensors):
        return {
            name: (tensors[f"{name}.weight"].double() * tensors[f"{name}.weight_scale"].double()).numpy()
            for name in shapes
        }
    return weights_of(folder, shapes)


def dense_shapes(folder: Path) -> dict[str, tuple[int, int]]:
    dense = load_file(folder.parent / "dense" / "model.safetensors")
    names = [name.removesuffix(".weight") for name in dense if "_proj.weight" in name]
    return {name: (dense[f"{name}.weight"].shape[0], dense[f"{name}.weight"].shape[1]) for name in names}


@pytest.mark.parametrize(
    ("config", "targets"), SOURCES, ids=lambda value: as_call(value) if hasattr(value, "method") else ""
)
def test_the_same_weights_of_the_same_method(config: Any, targets: tuple[str, ...], tmp_path: Path) -> None:
    random_model("llama", num_hidden_layers=1, hidden_size=128, intermediate_size=256).save_pretrained(
        tmp_path / "dense"
    )
    source = tmp_path / "source"
    qt.quantize(tmp_path / "dense", config, output=source, device="cpu")
    weights = stored_weights(source)
    method = "absmax" if config.method == "w8a8" else config.method
    for name in targets:
        record = qt.convert(source, name, tmp_path / name)
        assert (record.format, record.method) == (name, method)
        read = weights_of(tmp_path / name, dense_shapes(source))
        assert all(np.array_equal(read[layer], weight) for layer, weight in weights.items()), name
        receipt = read_receipt(tmp_path / name)
        assert receipt is not None
        stated = receipt.settings
        assert (receipt.method, stated["format"]) == (method, name.removesuffix("_v2"))
        assert stated["granularity"] == getattr(config, "granularity", "channel")
        if config.method != "w8a8":
            torch.testing.assert_close(logits(tmp_path / name), logits(source), rtol=1e-4, atol=1e-5)


def test_back_from_gptq_is_the_same_bit_for_bit(tmp_path: Path) -> None:
    random_model("llama", num_hidden_layers=1).save_pretrained(tmp_path / "dense")
    qt.quantize(tmp_path / "dense", qt.AbsMax(**GROUPS), output=tmp_path / "made", device="cpu")
    qt.convert(tmp_path / "made", "gptq", tmp_path / "gptq")
    qt.convert(tmp_path / "gptq", "compressed-tensors", tmp_path / "back")
    made, back = (load_file(tmp_path / name / "model.safetensors") for name in ("made", "back"))
    assert made.keys() == back.keys() and all(torch.equal(tensor, back[name]) for name, tensor in made.items())
    assert (tmp_path / "back" / "config.json").read_bytes() == (tmp_path / "made" / "config.json").read_bytes()


def test_absmax_is_written_as_gptq_as_a_conversion_writes_it(tmp_path: Path) -> None:
    random_model("llama", num_hidden_layers=1).save_pretrained(tmp_path / "dense")
    config = qt.AbsMax(**GROUPS, format="gptq", exclude=("lm_head", "*.v_proj"))
    qt.quantize(tmp_path / "dense", config, output=tmp_path / "made", device="cpu")
    qt.convert(tmp_path / "made", "compressed-tensors", tmp_path / "other")
    qt.convert(tmp_path / "other", "gptq", tmp_path / "back")
    made, back = (load_file(tmp_path / name / "model.safetensors") for name in ("made", "back"))
    assert made.keys() == back.keys() and all(torch.equal(tensor, back[name]) for name, tensor in made.items())
    assert (tmp_path / "back" / "config.json").read_bytes() == (tmp_path / "made" / "config.json").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("target", ["gptq", "mlx"])
def test_what_a_conversion_wrote_is_verified(target: str, tmp_path: Path) -> None:
    random_model("llama", num_hidden_layers=1).save_pretrained(tmp_path / "dense")
    qt.quantize(tmp_path / "dense", qt.W8A8(), output=tmp_path / "made", device="cpu")
    record = qt.convert(tmp_path / "made", target, tmp_path / "out")
    assert "inputs of its layers are no longer rounded: the codes are those of weights alone" in record.notes
    assert qt.verify(tmp_path / "out").failed == ()


def test_what_gptq_has_no_room_for(tmp_path: Path) -> None:
    model = random_model("llama", num_hidden_layers=1)
    with pytest.raises(ConfigError, match="ZeroPoint: format 'gptq' may have no room for a zero point: quantize into"):
        qt.plan(model, qt.ZeroPoint(format="gptq"), device="cpu")
    with pytest.raises(ConfigError, match=r"does not hold lm_head .outside the blocks"):
        qt.plan(model, qt.AbsMax(format="gptq", exclude=()), device="cpu")
    with pytest.raises(ConfigError, match="format 'gptq' holds no embeddings of 8 bits"):
        qt.AbsMax(format="gptq", embeddings=8)


def test_int8_of_others_is_not_said_to_be_absmax(tmp_path: Path) -> None:
    """Calibrated or not, nothing tells: the result names no method of ours."""
    random_model("llama", num_hidden_layers=1).save_pretrained(tmp_path / "dense")
    qt.quantize(tmp_path / "dense", qt.W8A8(), output=tmp_path / "theirs", device="cpu")
    (tmp_path / "theirs" / "qtoolkit.json").unlink()
    file = tmp_path / "theirs" / "config.json"
    values = json.loads(file.read_text())
    del values["quantization_config"]["qtoolkit"]
    file.write_text(json.dumps(values))
    qt.convert(tmp_path / "theirs", "compressed-tensors", tmp_path / "packed")
    written = json.loads((tmp_path / "packed" / "config.json").read_text())["quantization_config"]
    assert "qtoolkit" not in written and written["format"] == "pack-quantized"
    with pytest.raises(ConfigError, match=r"format must be one of"):
        qt.convert(tmp_path / "theirs", "int-quantized", tmp_path / "out")


def test_scales_that_no_integers_have(tmp_path: Path) -> None:
    random_model("llama", num_hidden_layers=1).save_pretrained(tmp_path / "dense")
    qt.quantize(tmp_path / "dense", qt.W8A8(), output=tmp_path / "made", device="cpu")
    file = tmp_path / "made" / "model.safetensors"
    tensors = load_file(file)
    tensors["model.layers.0.mlp.up_proj.weight_scale"].neg_()
    save_file(tensors, file, {"format": "pt"})
    with pytest.raises(qt.QToolkitError, match=r"up_proj\.weight_scale holds negative numbers"):
        qt.convert(tmp_path / "made", "gptq", tmp_path / "out")
