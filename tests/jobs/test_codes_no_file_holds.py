"""What the blocks of a `.gguf` file do not hold as it is: refused in one line, or done when asked."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import qtoolkit as qt
from qtoolkit.errors import ConfigError, UnsupportedModelError
from tests.jobs.converted import weights_of
from tests.jobs.file_weights import GROUPS, gptq, made, packed, same, tensors_in, types_in, weights_in
from tests.jobs.test_converting import shapes_of
from tests.sample_models import random_model

REFUSED: dict[str, tuple[Callable[[Path], Path], str]] = {
    "2 bits": (
        lambda folder: gptq(folder, bits=2),
        r"has codes of 2 bits \(\S+\), .*: give the full-precision model to qt.quantize, as Q2_K, or format='compr",
    ),
    "3 bits": (lambda folder: gptq(folder, bits=3), r"has codes of 3 bits .*: give wider=True \(as Q4_0, 4.5 bits per"),
    "8 bits with zero points": (
        lambda folder: gptq(folder, bits=8, sym=False),
        r"has asymmetric codes of 8 bits \(\S+\), .*: give format='compressed-tensors'",
    ),
    "groups of 16": (
        lambda folder: made(folder, qt.AbsMax(bits=4, format="native", **GROUPS | {"group_size": 16})),
        r"has groups of 16 inputs \(\S+\), .*: give format='compressed-tensors' or format='gptq'",
    ),
    "order of activation": (
        lambda folder: gptq(folder, desc_act=True),
        r"has groups in order of activation, or of different .*: quantize the full-precision model in that format$",
    ),
    "scales of float32": (
        lambda folder: packed(folder, dtype=torch.float32),
        r"has scales that float16 rounds \(\S+\), .*: give lossy=True \(scales are rounded\) or format='gptq'",
    ),
}


@pytest.mark.parametrize("title", REFUSED)
def test_what_no_block_holds_is_refused_in_one_line(title: str, tmp_path: Path) -> None:
    write, message = REFUSED[title]
    source = write(tmp_path)
    with pytest.raises(ConfigError, match=message) as caught:
        qt.convert(source, "gguf", tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("out")]


def test_an_order_of_activation_that_is_the_natural_one_is_none(tmp_path: Path) -> None:
    source = gptq(tmp_path, desc_act=True, group_size=-1)
    qt.convert(source, "gguf", tmp_path / "out")
    assert types_in(tmp_path / "out")["blk.0.attn_q.weight"] == "Q4_0"


def test_scales_are_rounded_on_request(tmp_path: Path) -> None:
    source = packed(tmp_path, dtype=torch.float32)
    record = qt.convert(source, "gguf", tmp_path / "out", lossy=True)
    shapes = shapes_of(tmp_path / "dense", source)
    before, after = weights_of(source, shapes), weights_in(tmp_path / "out", shapes)
    moved = max(float(np.abs(after[name] - weight).max()) for name, weight in before.items())
    (note,) = [note for note in record.notes if note.startswith("lossy:")]
    assert note.startswith(f"lossy: rounding scales to float16 moves weights by {moved:.1e} at most")
    assert any("rounded to that from another type, such as" in note for note in record.notes)


@pytest.mark.parametrize(
    ("scale", "message"), [(65536.0, "scales beyond float16"), (2.0**-25, "scales that float16 rounds")]
)
def test_scales_at_the_ends_of_float16(scale: float, message: str, tmp_path: Path) -> None:
    """bfloat16 has them; the smallest that float16 has is 2**-24."""
    source = packed(tmp_path)
    file = source / "model.safetensors"
    tensors = load_file(file)
    tensors["model.layers.1.mlp.up_proj.weight_scale"].fill_(scale)
    save_file(tensors, file, {"format": "pt"})
    with pytest.raises(ConfigError, match=rf"has {message} \(model.layers.1.mlp.up_proj\)"):
        qt.convert(source, "gguf", tmp_path / "out")
    tensors["model.layers.1.mlp.up_proj.weight_scale"].fill_(2.0**-24)
    save_file(tensors, file, {"format": "pt"})
    qt.convert(source, "gguf", tmp_path / "out")


def test_options_that_change_nothing_say_so(tmp_path: Path) -> None:
    source = gptq(tmp_path)
    record = qt.convert(source, "gguf", tmp_path / "out", lossy=True, wider=True)
    assert not record.lossy
    assert "lossy: nothing is rounded, since all codes and scales are held exactly" in record.notes
    assert "wider: no codes are stored in larger ones" in record.notes
    with pytest.raises(ConfigError, match="format 'mlx' stores no codes in larger ones: leave wider out"):
        qt.convert(source, "mlx", tmp_path / "mlx", wider=True)


def test_experts_of_different_bits_are_one_tensor_of_the_larger_ones_when_asked(tmp_path: Path) -> None:
    source = packed(tmp_path, architecture="mixtral", bits_of={"experts.1.w1": 8})
    with pytest.raises(ConfigError, match=r"has codes of 4 and 8 bits in one stack of experts .*: give wider=True"):
        qt.convert(source, "gguf", tmp_path / "out")
    qt.convert(source, "gguf", tmp_path / "out", wider=True)
    shapes = shapes_of(tmp_path / "dense", source)
    same(weights_of(source, shapes), weights_in(tmp_path / "out", shapes))
    types = types_in(tmp_path / "out")
    assert (types["blk.0.ffn_gate_exps.weight"], types["blk.0.ffn_up_exps.weight"]) == ("Q8_0", "Q4_0")


def test_a_stack_of_which_one_expert_is_not_quantized(tmp_path: Path) -> None:
    source = packed(tmp_path, architecture="mixtral")
    tensors = load_file(source / "model.safetensors")
    name = "model.layers.0.block_sparse_moe.experts.1.w1"
    left = {key: tensor for key, tensor in tensors.items() if not key.startswith(f"{name}.")}
    weight = load_file(tmp_path / "dense" / "model.safetensors")[f"{name}.weight"].bfloat16()
    save_file({**left, f"{name}.weight": weight}, source / "model.safetensors", {"format": "pt"})
    config = json.loads((source / "config.json").read_text())
    config["quantization_config"]["ignore"].append("re:.*layers[.]0[.].*experts[.]1[.]w1$")
    (source / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match=rf"has experts of which some are not quantized \({re.escape(name)}\), which"):
        qt.convert(source, "gguf", tmp_path / "out")


def test_biases_of_zeros_that_no_layer_has_are_left_out(tmp_path: Path) -> None:
    """Some programs write them beside all codes; llama.cpp's Qwen2 has no place for that of the output of attention."""
    source = gptq(tmp_path, architecture="qwen2")
    file = source / "model.safetensors"
    tensors = load_file(file)
    key = "model.layers.0.self_attn.o_proj.bias"
    save_file({**tensors, key: torch.zeros(64, dtype=torch.float16)}, file, {"format": "pt"})
    qt.convert(source, "gguf", tmp_path / "out")
    assert "blk.0.attn_output.bias" not in tensors_in(tmp_path / "out")
    assert "blk.0.attn_q.bias" in tensors_in(tmp_path / "out")
    save_file({**tensors, key: torch.ones(64, dtype=torch.float16)}, file, {"format": "pt"})
    with pytest.raises(UnsupportedModelError, match=r"o_proj\.bias' is not 0, and by its config the layer has no bias"):
        qt.convert(source, "gguf", tmp_path / "again")


def test_an_architecture_that_llama_cpp_lacks_is_refused(tmp_path: Path) -> None:
    random_model("opt").save_pretrained(tmp_path / "dense")
    qt.quantize(tmp_path / "dense", qt.AbsMax(bits=4, **GROUPS), output=tmp_path / "made", device="cpu")
    with pytest.raises(UnsupportedModelError, match=r"no \.gguf file is written of .*opt"):
        qt.convert(tmp_path / "made", "gguf", tmp_path / "out")
