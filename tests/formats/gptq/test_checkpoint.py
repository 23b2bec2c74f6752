"""Damaged and foreign GPTQ checkpoints are refused in one line, by `qt.load` and by plain transformers alike."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

import qtoolkit as qt
from qtoolkit.errors import CheckpointError, SourceError, UnsafeCheckpointError, UnsupportedModelError
from qtoolkit.formats.gptq.config import QuantizeConfig, read_quantize_config
from tests.formats.gptq.files import Recipe, Tensors, write, write_checkpoint

Load = Callable[[Path], object]
LAYER = "model.layers.0.mlp.up_proj"  # [128, 64] in groups of 32


def ours(folder: Path) -> object:
    return qt.load(folder, device="cpu")


def theirs(folder: Path) -> object:
    return AutoModelForCausalLM.from_pretrained(folder)


both = pytest.mark.parametrize("load", [ours, theirs], ids=["qt.load", "from_pretrained"])


@pytest.fixture(scope="module")
def tensors(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Tensors]:
    folder = tmp_path_factory.mktemp("sound")
    return folder / "gptq", write_checkpoint(Recipe(), folder)


@pytest.fixture
def sound(tensors: tuple[Path, Tensors], tmp_path: Path) -> tuple[Path, Tensors]:
    """A folder of one's own, and the tensors to write into it."""
    (tmp_path / "config.json").write_text((tensors[0] / "config.json").read_text())
    return tmp_path, dict(tensors[1])


def message(load: Load, folder: Path, error: type[SourceError]) -> str:
    with pytest.raises(error) as caught:
        load(folder)
    text = str(caught.value)
    assert "\n" not in text
    return text


# What is done to one tensor of the layer (its new value, or None to leave it out), and what is said.
DAMAGES: dict[str, tuple[str, Callable[[torch.Tensor], torch.Tensor | None], str]] = {
    "no qzeros": ("qzeros", lambda _: None, "is missing"),
    "no scales": ("scales", lambda _: None, "is missing"),
    "float qweight": ("qweight", lambda tensor: tensor.float(), "has the type float32: it must be int32"),
    "long qweight": ("qweight", lambda tensor: tensor.long(), "has the type int64: it must be int32"),
    "float qzeros": ("qzeros", lambda tensor: tensor.half(), "has the type float16: it must be int32"),
    "whole scales": ("scales", lambda tensor: tensor.int(), "has the type int32: it must be float16"),
    "float g_idx": ("g_idx", lambda tensor: tensor.half(), "has the type float16: it must be int32"),
    "qweight of fewer outputs": (
        "qweight",
        lambda t: t[:, :64].clone(),
        "has the shape [8, 64]: it must be [any, 128]",
    ),
    "qweight cut off": ("qweight", lambda t: t[:7].clone(), "has 7 rows for 64 inputs, which no number of bits makes"),
    "qweight of 5 bits": ("qweight", lambda t: t.repeat(2, 1)[:10].clone(), "has 10 rows for 64 inputs"),
    "qweight of 8 bits": ("qweight", lambda t: t.repeat(2, 1), "qzeros has the shape [2, 16]: it must be [2, 32]"),
    "qweight flat": ("qweight", lambda t: t.flatten(), "has the shape [1024]"),
    "qzeros of a group less": ("qzeros", lambda t: t[:1].clone(), "has the shape [1, 16]: it must be [2, 16]"),
    "scales of fewer outputs": ("scales", lambda t: t[:, :64].clone(), "has the shape [2, 64]: it must be [any, 128]"),
    "scales of no group": ("scales", lambda t: t[:0].clone(), "qzeros has the shape [2, 16]: it must be [0, 16]"),
    "g_idx of fewer inputs": ("g_idx", lambda t: t[:32].clone(), "has the shape [32]: it must be [64]"),
    "g_idx too large": ("g_idx", lambda t: t + 1, "names groups 1 to 2 of 2"),
    "g_idx negative": ("g_idx", lambda t: t - 1, "names groups -1 to 0 of 2"),
    "scales not a number": ("scales", lambda t: t.index_fill(0, torch.tensor([1]), torch.nan), "holds NaN or infinity"),
    "scales infinite": ("scales", lambda t: t / 0, "holds NaN or infinity"),
    "scales too large": ("scales", lambda t: t * 0 + 30_000, "3e+04, with which weights pass the largest"),
    "bias of fewer outputs": ("bias", lambda _: torch.zeros(64).half(), "has the shape [64]: it must be [128]"),
    "whole bias": ("bias", lambda _: torch.zeros(128).int(), "has the type int32: it must be float16"),
}


@both
@pytest.mark.parametrize(("part", "change", "said"), DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_layer(
    part: str,
    change: Callable[[torch.Tensor], torch.Tensor | None],
    said: str,
    load: Load,
    sound: tuple[Path, Tensors],
) -> None:
    folder, tensors = sound
    changed = change(tensors.pop(f"{LAYER}.{part}", torch.empty(0)))
    if changed is not None:
        tensors[f"{LAYER}.{part}"] = changed
    write(folder, tensors, Recipe().config)
    text = message(load, folder, CheckpointError)
    assert said in text
    assert LAYER in text


@both
def test_without_codes_a_layer_is_missing(load: Load, sound: tuple[Path, Tensors]) -> None:
    """transformers alone would start it with random numbers, and say so in a table."""
    folder, tensors = sound
    del tensors[f"{LAYER}.qweight"]
    write(folder, tensors, Recipe().config)
    assert f"{LAYER}" in message(load, folder, CheckpointError)


@both
def test_groups_that_do_not_divide_the_inputs(load: Load, sound: tuple[Path, Tensors]) -> None:
    folder, tensors = sound
    for part in ("qzeros", "scales"):
        tensors[f"{LAYER}.{part}"] = torch.cat([tensors[f"{LAYER}.{part}"]] * 3)[:5].clone()
    write(folder, tensors, Recipe().config)
    assert f"{LAYER}.scales has 5 groups for 64 inputs" in message(load, folder, CheckpointError)


@both
def test_a_missing_bias(load: Load, tmp_path: Path) -> None:
    tensors = write_checkpoint(Recipe("qwen2"), tmp_path)
    del tensors["model.layers.1.self_attn.k_proj.bias"]
    write(tmp_path / "gptq", tensors, Recipe().config)
    text = message(load, tmp_path / "gptq", CheckpointError)
    assert "model.layers.1.self_attn.k_proj.bias is missing" in text


@both
def test_a_weight_of_another_shape_beside(load: Load, sound: tuple[Path, Tensors]) -> None:
    folder, tensors = sound
    tensors["model.norm.weight"] = torch.ones(32).half()
    write(folder, tensors, Recipe().config)
    assert "model.norm.weight has the shape [32]" in message(load, folder, CheckpointError)


@both
def test_a_truncated_file(load: Load, sound: tuple[Path, Tensors]) -> None:
    folder, tensors = sound
    write(folder, tensors, Recipe().config)
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[:-100])
    assert "model.safetensors is damaged" in message(load, folder, CheckpointError)


@both
def test_nothing_quantized(load: Load, sound: tuple[Path, Tensors]) -> None:
    folder, tensors = sound
    write(folder, {name: tensor for name, tensor in tensors.items() if "proj" not in name}, Recipe().config)
    assert "no tensor ends in .qweight" in message(load, folder, CheckpointError)


@both
@pytest.mark.parametrize("name", ["model.layers.0.mlp.other_proj", "model.layers.7.mlp.up_proj", "model.norm"])
def test_a_layer_of_another_model(name: str, load: Load, sound: tuple[Path, Tensors]) -> None:
    folder, tensors = sound
    for part in ("qweight", "qzeros", "scales", "g_idx"):
        tensors[f"{name}.{part}"] = tensors[f"{LAYER}.{part}"].clone()
    write(folder, tensors, Recipe().config)
    text = message(load, folder, UnsupportedModelError)
    assert f"{name}.qweight belongs to no linear layer of LlamaForCausalLM" in text


@both
def test_a_quantized_head_that_is_tied(load: Load, tmp_path: Path) -> None:
    tensors = write_checkpoint(Recipe("llama_tied"), tmp_path)
    for part in ("qweight", "qzeros", "scales"):
        wide = torch.cat([tensors[f"{LAYER}.{part}"]] * 2, dim=1)
        tensors[f"lm_head.{part}"] = wide
    write(tmp_path / "gptq", tensors, Recipe().config)
    assert "lm_head is quantized" in message(load, tmp_path / "gptq", UnsupportedModelError)


def test_pickles_are_not_opened(sound: tuple[Path, Tensors]) -> None:
    folder, tensors = sound
    write(folder, tensors, Recipe().config)
    (folder / "model.safetensors").unlink()
    torch.save(tensors, folder / "pytorch_model.bin")
    for load in (ours, theirs):
        assert "unpickling runs code" in message(load, folder, UnsafeCheckpointError)


# What the config says instead, and what is said of it.
FOREIGN = {
    "marlin": ({"checkpoint_format": "marlin"}, "in the formats gptq, gptq_v2, not 'marlin'"),
    "marlin, as it was": ({"checkpoint_format": None, "is_marlin_format": True}, "not 'marlin'"),
    "planar": ({"checkpoint_format": "gptq_p"}, "not 'gptq_p'"),
    "awq": ({"checkpoint_format": None, "format": "gemm"}, "not 'gemm'"),
    "no text": ({"checkpoint_format": 3}, "not 3"),
    "5 bits": ({"bits": 5}, "with 2, 3, 4, 8 bits, not 5"),
    "other words": ({"pack_dtype": "int16"}, "pack_dtype 'int16' is not read here"),
    "rotated": ({"rotation": "hadamard"}, "rotation 'hadamard' is not read here"),
}


@both
@pytest.mark.parametrize(("changes", "said"), FOREIGN.values(), ids=FOREIGN)
def test_another_format(changes: dict[str, Any], said: str, load: Load, sound: tuple[Path, Tensors]) -> None:
    folder, tensors = sound
    write(folder, tensors, Recipe().config | changes)
    assert said in message(load, folder, UnsupportedModelError)


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "bits as text": ({"bits": "4"}, "bits '4': it must be a whole number"),
    "bits true": ({"bits": True}, "bits True: it must be a whole number"),
    "no bits": ({"bits": None}, "bits None: it must be a whole number"),
    "group_size as text": ({"group_size": "128"}, "group_size '128': it must be a whole number"),
    "group_size 0": ({"group_size": 0}, "group_size 0: it must be -1 or at least 1"),
    "group_size -2": ({"group_size": -2}, "group_size -2: it must be -1 or at least 1"),
    "sym as text": ({"sym": "yes"}, "sym 'yes': it must be true or false"),
    "desc_act as number": ({"desc_act": 1}, "desc_act 1: it must be true or false"),
}


@both
@pytest.mark.parametrize(("changes", "said"), WRONG.values(), ids=WRONG)
def test_a_wrong_config(changes: dict[str, Any], said: str, load: Load, sound: tuple[Path, Tensors]) -> None:
    folder, tensors = sound
    write(folder, tensors, Recipe().config | changes)
    assert said in message(load, folder, CheckpointError)


@pytest.mark.parametrize("value", ["gptq", 4, [{"bits": 4}]], ids=str)
def test_a_config_that_is_no_object(value: object, sound: tuple[Path, Tensors]) -> None:
    folder, tensors = sound
    write(folder, tensors, value)  # type: ignore[arg-type]
    assert f"config.json has the quantization_config {value!r:.40}, which must be an object" in message(
        ours, folder, CheckpointError
    )


@pytest.mark.parametrize("text", ["", "[]", "{"])
def test_a_damaged_quantize_config(text: str, sound: tuple[Path, Tensors]) -> None:
    folder, tensors = sound
    write(folder, tensors, None)
    (folder / "quantize_config.json").write_text(text)
    assert "quantize_config.json is not" in message(ours, folder, CheckpointError)


def test_groups_that_the_config_class_does_not_have(sound: tuple[Path, Tensors]) -> None:
    folder, tensors = sound
    write(folder, tensors, Recipe().config | {"group_size": 16})
    assert "groups of 16" in message(ours, folder, UnsupportedModelError)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"bits": 4}, QuantizeConfig(4)),
        ({"bits": 8, "group_size": 32, "format": "GPTQ"}, QuantizeConfig(8, 32)),
        ({"bits": 2, "format": "gptq", "checkpoint_format": "gptq_v2"}, QuantizeConfig(2, checkpoint_format="gptq_v2")),
        ({"bits": 3, "sym": False, "desc_act": True, "extra": 1}, QuantizeConfig(3, sym=False, desc_act=True)),
        ({"bits": 4, "is_marlin_format": False, "pack_dtype": "int32", "rotation": None}, QuantizeConfig(4)),
    ],
    ids=["an early one", "format", "both keys", "act-order", "said and of no matter"],
)
def test_what_a_config_says(values: dict[str, Any], expected: QuantizeConfig) -> None:
    assert read_quantize_config(values) == expected
    assert json.loads(json.dumps(values)) == values
