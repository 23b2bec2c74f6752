"""What auto-round 0.16.1 wrote (tests/data/auto_round/make.py), read as the format whose packing it has."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

import qtoolkit as qt
from qtoolkit.errors import CheckpointError, SourceError, UnsupportedModelError
from qtoolkit.formats import get_format
from qtoolkit.kernels import QuantizedLinear
from tests.sample_models import plain_logits

DATA = Path(__file__).parent.parent.parent / "data" / "auto_round"
# Folder -> how it is read, what is added to a stored zero point, and the bits of layers that have others.
KINDS: dict[str, tuple[str, int, dict[str, int]]] = {
    "symmetric": ("gptq", 1, {"down_proj": 8}),
    "zero_points": ("gptq_v2", 0, {"up_proj": 2}),
    "gptq_zero_points": ("gptq", 1, {}),
    "awq": ("awq", 0, {}),
}
every_kind = pytest.mark.parametrize("kind", KINDS)
TOKENS = torch.arange(2, 34).reshape(2, 16)
GROUP = 32


def numbers(words: torch.Tensor, bits: int) -> np.ndarray:
    """The numbers in the words of int32 [n, m], from the lowest bits on: int64 [n, m, 32 / bits]."""
    return words.numpy().view(np.uint32)[..., None] >> np.arange(0, 32, bits).astype(np.uint32) & (2**bits - 1)


def expanded(kind: str) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint with float64 weights instead of codes, as auto-round's own classes are written."""
    _, offset, others = KINDS[kind]
    tensors = load_file(DATA / kind / "model.safetensors")
    for stem in [name.removesuffix(".qweight") for name in tensors if name.endswith(".qweight")]:
        bits = others.get(stem.rpartition(".")[2], 4)
        words, zeros, scales = (tensors.pop(f"{stem}.{part}") for part in ("qweight", "qzeros", "scales"))
        tensors.pop(f"{stem}.g_idx", None)
        inputs, outputs = (len(words), scales.shape[1]) if kind == "awq" else (len(words) * 32 // bits, len(words.T))
        zero_points = numbers(zeros, bits)  # [groups, words, numbers]
        codes = numbers(words, bits) if kind == "awq" else numbers(words.T.contiguous(), bits)
        if kind == "awq":
            order = [0, 4, 1, 5, 2, 6, 3, 7]  # AWQ_REVERSE_ORDER
            codes, zero_points = codes[..., order], zero_points[..., order]
        # [in, out / 8, 8] of AWQ, otherwise [out, in * bits / 32, 32 / bits] -> [out, in]
        codes = codes.reshape(inputs, outputs).T if kind == "awq" else codes.reshape(outputs, inputs)
        each = np.repeat(zero_points.reshape(-1, outputs).astype(np.int64) + offset, GROUP, axis=0).T
        scale = np.repeat(scales.double().numpy(), GROUP, axis=0).T
        tensors[f"{stem}.weight"] = torch.from_numpy((codes.astype(np.int64) - each) * scale)
    return tensors


def loaded(folder: Path) -> qt.QuantizedModel:
    result = qt.load(folder, device="cpu", dtype="float32")
    assert isinstance(result, qt.QuantizedModel)
    return result


@every_kind
def test_logits_are_those_of_the_weights_that_it_stands_for(kind: str, tmp_path: Path) -> None:
    config = json.loads((DATA / kind / "config.json").read_text())
    del config["quantization_config"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    dense = {name: tensor.float().contiguous() for name, tensor in expanded(kind).items()}
    save_file(dense, tmp_path / "model.safetensors", {"format": "pt"})
    expected = plain_logits(AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32), TOKENS)
    result = loaded(DATA / kind)
    torch.testing.assert_close(plain_logits(result.model, TOKENS), expected, rtol=1e-4, atol=1e-5)
    others = KINDS[kind][2]
    assert all(layer.bits == others.get(layer.name.rpartition(".")[2], 4) for layer in result.report.layers)
    assert any(f"read as {KINDS[kind][0]}, which is how AutoRound packed it" in note for note in result.report.notes)
    assert result.report.memory.predicted_footprint_after == result.report.memory.footprint_after


@every_kind
def test_transformers_reads_the_same_once_qtoolkit_is_imported(kind: str) -> None:
    model = AutoModelForCausalLM.from_pretrained(DATA / kind, dtype=torch.float32)
    assert any(isinstance(module, QuantizedLinear) for module in model.modules())
    torch.testing.assert_close(plain_logits(model, TOKENS), plain_logits(loaded(DATA / kind).model, TOKENS))


@every_kind
def test_saved_again_it_is_of_the_format_that_it_was_read_as(kind: str, tmp_path: Path) -> None:
    before = loaded(DATA / kind)
    before.save(tmp_path / "again")
    config = json.loads((tmp_path / "again" / "config.json").read_text())["quantization_config"]
    named = config.get("checkpoint_format", config["quant_method"])
    assert named == KINDS[kind][0]
    assert torch.equal(plain_logits(loaded(tmp_path / "again").model, TOKENS), plain_logits(before.model, TOKENS))
    for name, bits in KINDS[kind][2].items():
        assert {"bits": bits} in [own for pattern, own in config["dynamic"].items() if name in pattern]


@every_kind
def test_a_sound_folder_has_no_problem(kind: str) -> None:
    values = json.loads((DATA / kind / "config.json").read_text())["quantization_config"]
    assert list(get_format("auto-round").problems(DATA / kind, values)) == []


OLD = {"quant_method": "intel/auto-round", "packing_format": None, "backend": "auto_round:gptq:exllamav2"}
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "FP8": (
        {"packing_format": "auto_round:fp8_static"},
        "AutoRound's packing 'auto_round:fp8_static' is not read here",
    ),
    "llm-compressor": ({"packing_format": "auto_round:llm_compressor"}, "packing 'auto_round:llm_compressor'"),
    "MLX": ({"packing_format": "mlx"}, "packing 'mlx' is not read here"),
    "no text": ({"packing_format": 4}, "packing 4 is not read here"),
    "MXFP4": ({"data_type": "mx_fp"}, "AutoRound with data_type 'mx_fp' is not read here"),
    "activations": ({"act_bits": 8}, "AutoRound with activations of 8 bits is not read here"),
    "floats in a layer": ({"extra_config": {"x": {"data_type": "nv_fp"}}}, "data_type 'nv_fp' is not read here"),
    "rotations": ({"rotation_config": {"block_size": 32}}, "AutoRound with rotation_config is not read here"),
    "5 bits": ({"bits": 5}, "GPTQ is read with 2, 3, 4, 8 bits, not 5"),
}
DAMAGED: dict[str, tuple[dict[str, Any], str]] = {
    "a list": ({"extra_config": ["x"]}, "extra_config ['x']: it must map layers to options"),
    "text": ({"extra_config": {"x": 4}}, "it must map layers to options"),
    "bits as text": ({"extra_config": {"x": {"bits": "4"}}}, "bits '4': it must be a whole number"),
    "sym as text": ({"sym": "yes"}, "sym 'yes': it must be true or false"),
}


def changed(folder: Path, changes: dict[str, Any]) -> Path:
    shutil.copytree(DATA / "symmetric", folder, dirs_exist_ok=True)
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] |= changes
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(
    ("changes", "said", "error"),
    [
        *((*one, UnsupportedModelError) for one in REFUSED.values()),
        *((*one, CheckpointError) for one in DAMAGED.values()),
    ],
    ids=[*REFUSED, *DAMAGED],
)
def test_what_is_not_read(changes: dict[str, Any], said: str, error: type[SourceError], tmp_path: Path) -> None:
    folder = changed(tmp_path, changes)
    with pytest.raises(error) as caught:
        qt.load(folder, device="cpu")
    assert said in str(caught.value) and "\n" not in str(caught.value)
    problems = get_format("auto-round").problems(
        folder, json.loads((folder / "config.json").read_text())["quantization_config"]
    )
    assert len(problems) == 1


@pytest.mark.parametrize("changes", [OLD, {**OLD, "backend": "auto_round"}, {"packing_format": None}], ids=str)
def test_older_configs_name_a_program_or_nothing(changes: dict[str, Any], tmp_path: Path) -> None:
    """Symmetric zero points tell how they are stored, whatever the config says."""
    result = loaded(changed(tmp_path, changes))
    torch.testing.assert_close(
        plain_logits(result.model, TOKENS), plain_logits(loaded(DATA / "symmetric").model, TOKENS)
    )
