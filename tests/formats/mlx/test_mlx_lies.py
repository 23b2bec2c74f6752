"""Damaged MLX checkpoints, and configs that do not say what the tensors are: one line, before work."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM
from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING

import qtoolkit as qt
from qtoolkit.errors import UnsupportedModelError
from qtoolkit.formats import get_format
from tests.formats.compressed_tensors.packed_files import Recipe, Tensors
from tests.formats.mlx.affine_files import described, write, write_checkpoint
from tests.formats.quantized_folders import refusal

LAYER = "model.layers.0.mlp.up_proj"  # [128, 64] in groups of 32
EMBEDDING = "model.embed_tokens"
Change = Callable[[torch.Tensor], torch.Tensor | None]


@pytest.fixture(scope="module")
def tensors(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Tensors]:
    folder = tmp_path_factory.mktemp("sound")
    return folder / "packed", write_checkpoint(Recipe(), folder)[0]


@pytest.fixture
def sound(tensors: tuple[Path, Tensors], tmp_path: Path) -> tuple[Path, Tensors]:
    """A folder of one's own, and the tensors to write into it."""
    (tmp_path / "config.json").write_text((tensors[0] / "config.json").read_text())
    return tmp_path, dict(tensors[1])


DAMAGES: dict[str, tuple[str, Change, str]] = {
    "no codes": ("weight", lambda _: None, "is missing"),
    "no scales": ("scales", lambda _: None, "is missing"),
    "no minima": ("biases", lambda _: None, "is missing"),
    "signed codes": ("weight", lambda t: t.view(torch.int32), "has the type int32: it must be uint32"),
    "whole scales": ("scales", lambda t: t.int(), "has the type int32: it must be float16"),
    "minima in another type": ("biases", lambda t: t.float(), "has the type float32: it must be bfloat16"),
    "fewer outputs": ("weight", lambda t: t[:64].clone(), "has the shape [64, 8]: it must be [128, 8]"),
    "a group less": ("scales", lambda t: t[:, :1].clone(), "has the shape [128, 1]: it must be [128, 2]"),
    "not a number": ("scales", lambda t: t * torch.nan, "NaN or infinity"),
    "infinite minima": ("biases", lambda t: t * torch.inf, "NaN or infinity"),
    "asymmetric": ("biases", lambda t: t * 1.125, "not those of symmetric codes"),
}


@pytest.mark.parametrize(("part", "change", "said"), DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_layer(part: str, change: Change, said: str, sound: tuple[Path, Tensors]) -> None:
    folder, tensors = sound
    changed = change(tensors.pop(f"{LAYER}.{part}"))
    if changed is not None:
        tensors[f"{LAYER}.{part}"] = changed
    write(folder, tensors, described(Recipe(), {}))
    text = refusal(folder)
    assert said in text
    assert LAYER in text
    config = {**described(Recipe(), {}), "quant_method": "mlx"}
    problems = get_format("mlx").problems(folder, config)
    assert len(problems) == 1 and LAYER in problems[0] and "\n" not in problems[0]


SCHEME = {"group_size": 32, "bits": 8}
LIES: dict[str, tuple[dict[str, Any], str]] = {
    "bits": ({"bits": 8}, "has the shape"),
    "groups": ({"group_size": 64}, "has the shape"),
    "a layer's bits": ({LAYER: SCHEME}, f"{LAYER}.weight has the shape [128, 8]: it must be [128, 16]"),
    "a layer left": ({LAYER: False}, f"{LAYER} is quantized, and the config says that it is not"),
    "a layer that is not": ({"model.layers.0.gone": SCHEME}, "model.layers.0.gone is quantized, and its codes are"),
    "7 bits": ({"bits": 7}, "the config has bits 7: MLX has 2, 3, 4, 5, 6 or 8"),
    "text": ({"bits": "4"}, "the config has bits '4': MLX has"),
    "true": ({"bits": True}, "the config has bits True: MLX has"),
    "groups of 48": ({"group_size": 48}, "the config has group_size 48: MLX has 32, 64 or 128"),
    "a layer without groups": ({LAYER: {"bits": 4}}, f"the config's '{LAYER}' has group_size None"),
    "floats": ({"mode": "mxfp4"}, "the config has mode 'mxfp4', and MLX is read in affine alone"),
}


@pytest.mark.parametrize(("changes", "said"), LIES.values(), ids=LIES)
def test_a_config_that_lies(changes: dict[str, Any], said: str, sound: tuple[Path, Tensors]) -> None:
    folder, tensors = sound
    config = described(Recipe(), {}) | changes
    write(folder, tensors, config)
    assert said in refusal(folder)
    problems = get_format("mlx").problems(folder, {**config, "quant_method": "mlx"})
    assert problems and not any("\n" in line or str(folder) in line for line in problems)


@pytest.mark.parametrize("theirs", [None, {}, {"bits": 8}, "4 bits"], ids=str)
def test_mlx_is_told_something_else_than_transformers(theirs: Any, sound: tuple[Path, Tensors]) -> None:
    folder, tensors = sound
    told = described(Recipe(), {}) | theirs if isinstance(theirs, dict) and theirs else theirs
    write(folder, tensors, told, described(Recipe(), {}))
    said = "config.json says one thing in `quantization`"
    assert said in refusal(folder)
    (problem,) = get_format("mlx").problems(folder, {**described(Recipe(), {}), "quant_method": "mlx"})
    assert problem.startswith(said)


def test_a_sound_folder_has_no_problem(sound: tuple[Path, Tensors]) -> None:
    folder, tensors = sound
    write(folder, tensors, described(Recipe(), {}))
    assert get_format("mlx").problems(folder, {**described(Recipe(), {}), "quant_method": "mlx"}) == []
    assert isinstance(qt.load(folder, device="cpu"), qt.QuantizedModel)


def test_transformers_is_told_what_makes_mlx(tensors: tuple[Path, Tensors]) -> None:
    dense = tensors[0].parent / "dense"
    config = AUTO_QUANTIZATION_CONFIG_MAPPING["mlx"](bits=4, group_size=32)
    with pytest.raises(UnsupportedModelError, match="transformers quantizes nothing into MLX"):
        AutoModelForCausalLM.from_pretrained(dense, quantization_config=config)


def test_what_mlx_lm_quantized_is_read_where_its_codes_are_symmetric(sound: tuple[Path, Tensors]) -> None:
    """It names no `quant_method`, and its own rounding gives each group a minimum of its own."""
    folder, tensors = sound
    write(folder, tensors, described(Recipe(), {}))
    config = json.loads((folder / "config.json").read_text())
    del config["quantization_config"]["quant_method"]
    (folder / "config.json").write_text(json.dumps(config))
    result = qt.load(folder, device="cpu")
    assert isinstance(result, qt.QuantizedModel)
    assert result.model.config.quantization_config.quant_method == "mlx"
    for name in [name for name in tensors if name.endswith(".biases")]:
        tensors[name] = tensors[name] * 1.125
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    assert "such as mlx-lm's own quantization makes: load it with mlx-lm, or quantize the full" in refusal(folder)
