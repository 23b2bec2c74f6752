"""What cannot be converted is refused before any work, in one line that says what holds the codes."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import qtoolkit as qt
from qtoolkit.errors import CheckpointError, ConfigError, OutputExistsError, QToolkitError, UnsupportedModelError
from tests.coded_models import store_as_float4
from tests.formats.compressed_tensors import packed_files
from tests.formats.gptq import files
from tests.sample_models import random_model

pytestmark = pytest.mark.slow


def refusal(source: Path, name: str, folder: Path, **options: Any) -> str:
    """The line with which a conversion is refused; nothing is left of it."""
    with pytest.raises(QToolkitError) as caught:
        qt.convert(source, name, folder / "out", **options)
    assert not (folder / "out").exists() and not (folder / "out.partial").exists()
    message = str(caught.value)
    assert "\n" not in message
    return message


def gptq(folder: Path, **changes: object) -> Path:
    files.write_checkpoint(files.Recipe(**changes), folder)  # type: ignore[arg-type]
    return folder / "gptq"


def test_asymmetric_codes_are_none_of_mlx(tmp_path: Path) -> None:
    message = refusal(gptq(tmp_path, sym=False), "mlx", tmp_path)
    assert re.search(r"has asymmetric codes \(model\.layers\.\S+\), which format 'mlx' does not hold: ", message)
    rounding = "lossy=True (minima of groups are rounded)"
    assert message.endswith(f"give {rounding} or format='compressed-tensors' or format='gptq_v2'")


def test_the_layer_with_zero_points_is_named(tmp_path: Path) -> None:
    """Not those that share a matrix with it, which are stored as asymmetric for its sake."""
    tensors = files.write_checkpoint(files.Recipe(), tmp_path)
    tensors["model.layers.1.self_attn.v_proj.qzeros"].fill_(0x33333333)
    save_file(tensors, tmp_path / "gptq" / "model.safetensors", {"format": "pt"})
    assert "has asymmetric codes (model.layers.1.self_attn.v_proj)" in refusal(tmp_path / "gptq", "mlx", tmp_path)


@pytest.mark.parametrize("group", [-1, 2**31 - 1], ids=["below", "above"])
@pytest.mark.parametrize("name", ["gptq_v2", "compressed-tensors"])
def test_groups_that_are_none_are_refused(name: str, group: int, tmp_path: Path) -> None:
    tensors = files.write_checkpoint(files.Recipe(), tmp_path)
    tensors["model.layers.0.mlp.up_proj.g_idx"][3] = group
    save_file(tensors, tmp_path / "gptq" / "model.safetensors", {"format": "pt"})
    message = refusal(tmp_path / "gptq", name, tmp_path)
    assert f"model.layers.0.mlp.up_proj names groups {min(group, 0)} to {max(group, 1)} of 2" in message


def test_groups_in_order_of_activation_are_gptqs_alone(tmp_path: Path) -> None:
    source = gptq(tmp_path, desc_act=True)
    for name in ("compressed-tensors", "mlx"):
        told = refusal(source, name, tmp_path)
        assert told.endswith(f"format {name!r} does not hold: quantize the full-precision model in that format")
    qt.convert(source, "gptq_v2", tmp_path / "out")


def test_a_zero_point_of_0_goes_to_gptq_v2_alone(tmp_path: Path) -> None:
    packed_files.write_checkpoint(packed_files.Recipe(sym=False), tmp_path)
    file = tmp_path / "packed" / "model.safetensors"
    tensors = load_file(file)
    tensors["model.layers.1.mlp.up_proj.weight_zero_point"].zero_()
    save_file(tensors, file, {"format": "pt"})
    message = refusal(tmp_path / "packed", "gptq", tmp_path)
    assert "has zero points of 0 (model.layers.1.mlp.up_proj), which format 'gptq' does not hold" in message
    assert message.endswith("give format='gptq_v2'")
    qt.convert(tmp_path / "packed", "gptq_v2", tmp_path / "v2")
    qt.convert(tmp_path / "v2", "compressed-tensors", tmp_path / "back")
    back = load_file(tmp_path / "back" / "model.safetensors")
    assert all(torch.equal(back[name], tensor) for name, tensor in tensors.items())


def test_bits_and_embeddings_that_a_format_lacks(tmp_path: Path) -> None:
    packed_files.write_checkpoint(packed_files.Recipe(bits=5), tmp_path)
    assert refusal(tmp_path / "packed", "gptq", tmp_path).endswith("give format='mlx'")
    assert "has codes of 5 bits" in refusal(tmp_path / "packed", "gptq_v2", tmp_path)
    config = qt.GPTQ(calibration="self", num_samples=2, seq_len=16, group_size=32, embeddings=8, format="mlx", refine=0)
    qt.quantize(random_model("llama"), config, output=tmp_path / "embedded", device="cpu")
    assert "has quantized embeddings" in refusal(tmp_path / "embedded", "gptq", tmp_path)


def test_codes_of_a_method_that_a_format_knows_nothing_of(tmp_path: Path) -> None:
    model = random_model("llama")
    qt.quantize(model, qt.FP8(), output=tmp_path / "fp8", device="cpu")
    for name in ("gptq", "compressed-tensors", "mlx", "native"):
        assert "has float8 codes, which compressed-tensors alone holds, as they are stored" in refusal(
            tmp_path / "fp8", name, tmp_path
        )
    assert "has codes of method 'gptq', which format 'native' does not hold" in refusal(
        gptq(tmp_path), "native", tmp_path
    )


def test_what_is_no_quantized_model(tmp_path: Path) -> None:
    model = random_model("llama")
    model.save_pretrained(tmp_path / "plain")
    assert "is in full precision: give it to qt.quantize" in refusal(tmp_path / "plain", "gptq", tmp_path)
    store_as_float4(random_model("llama"), tmp_path / "coded", "nvfp4-pack-quantized")
    assert "is expanded from NVFP4, whose codes no format takes over" in refusal(tmp_path / "coded", "gptq", tmp_path)
    with pytest.raises(
        ConfigError, match="format must be one of compressed-tensors, gguf, gptq, gptq_v2, mlx, native, got"
    ):
        qt.convert(tmp_path / "plain", "gguff", tmp_path / "out")
    with pytest.raises(ConfigError, match="model must be a folder or a Hub id of a quantized model, got Llama"):
        qt.convert(model, "gptq", tmp_path / "out")  # type: ignore[arg-type]
    with pytest.raises(UnsupportedModelError, match="whose codes no other format holds"):
        qt.convert(_nf4(tmp_path), "gptq", tmp_path / "out")


def _nf4(folder: Path) -> Path:
    pytest.importorskip("bitsandbytes")
    qt.quantize(random_model("llama"), qt.NF4(), output=folder / "nf4", device="cpu")
    return folder / "nf4"


def test_a_format_that_it_has_and_a_folder_that_is_taken(tmp_path: Path) -> None:
    source = gptq(tmp_path)
    assert refusal(source, "gptq", tmp_path).endswith("is stored as gptq already: name another format")
    with pytest.raises(OutputExistsError, match="is the source"):
        qt.convert(source, "mlx", source, overwrite=True)
    with pytest.raises(OutputExistsError, match="give overwrite=True"):
        qt.convert(source, "mlx", tmp_path / "dense")


def test_lossy_where_nothing_is_rounded(tmp_path: Path) -> None:
    source = gptq(tmp_path, sym=False)
    message = refusal(source, "compressed-tensors", tmp_path, lossy=True)
    assert message == "format 'compressed-tensors' rounds nothing: leave lossy out"


def test_a_program_that_would_not_load_the_result(tmp_path: Path) -> None:
    message = refusal(gptq(tmp_path), "mlx", tmp_path, for_="vllm")
    assert re.match(r"for_='vllm': vLLM \S+ would not load the result \(", message)
    assert message.endswith("): give format='compressed-tensors' or format='gptq_v2', or leave for_ out")
    record = qt.convert(tmp_path / "gptq", "compressed-tensors", tmp_path / "ct", for_="vllm")
    assert "vLLM" in record.readers


def test_no_options_of_a_recipe_are_named_to_codes_that_are_chosen(tmp_path: Path) -> None:
    source = gptq(tmp_path, sym=False)
    message = refusal(source, "gptq_v2", tmp_path, for_="vllm")
    assert message.endswith("(asymmetric GPTQ): give format='compressed-tensors', or leave for_ out")
    message = refusal(source, "compressed-tensors", tmp_path, for_="mlx-lm")
    assert message.endswith("): format='mlx' holds the codes, or leave for_ out")


@pytest.mark.parametrize("name", ["scales", "qzeros"])
def test_damaged_tensors(name: str, tmp_path: Path) -> None:
    source = gptq(tmp_path)
    file = source / "model.safetensors"
    tensors = load_file(file)
    key = f"model.layers.1.mlp.up_proj.{name}"
    tensors[key] = tensors[key] * float("nan") if name == "scales" else tensors[key][:, :-1].contiguous()
    save_file(tensors, file, {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"up_proj"):
        qt.convert(source, "mlx", tmp_path / "out")


def test_a_config_that_lies_about_symmetry(tmp_path: Path) -> None:
    """The zero points decide: a config that says sym=true of others leads to no wrong codes."""
    source = gptq(tmp_path, sym=False)
    config = json.loads((source / "config.json").read_text())
    config["quantization_config"]["sym"] = True
    (source / "config.json").write_text(json.dumps(config))
    assert "has asymmetric codes" in refusal(source, "mlx", tmp_path)
