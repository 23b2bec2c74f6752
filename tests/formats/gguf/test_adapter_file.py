"""A LoRA adapter as a `.gguf` file: its tensors by the `gguf` package, beside those that llama.cpp's own script makes.

`convert_lora_to_gguf.py` of llama.cpp wrote the same 28 tensors, bytes alike, of an adapter of a small Llama.
"""

from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from qtoolkit.adapters.adapter_reading import Change
from qtoolkit.errors import UnsupportedModelError
from qtoolkit.formats import get_format
from tests.sample_models import ARCHITECTURES

RANK, SCALING = 4, 2.0


def change(out: int, inputs: int, *, rank: int = RANK, dtype: torch.dtype = torch.float32) -> Change:
    return Change(torch.randn(rank, inputs).to(dtype), torch.randn(out, rank).to(dtype), SCALING)


def written(path: Path, kind: str, changes: dict[str, Change], *, in_8_bits: bool = False) -> gguf.GGUFReader:
    config = CONFIG_MAPPING[kind](**ARCHITECTURES[kind])
    get_format("gguf").write_adapter(path, changes, config=config, name="mine", in_8_bits=in_8_bits)
    return gguf.GGUFReader(path)


def matrices(reader: gguf.GGUFReader) -> dict[str, np.ndarray]:
    return {one.name: gguf.dequantize(one.data, one.tensor_type) for one in reader.tensors}


def permuted(weight: np.ndarray, heads: int) -> np.ndarray:
    """`LlamaModel.permute` of llama.cpp's convert_hf_to_gguf.py."""
    return (
        weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)
    )


def test_header_names_and_rows_are_those_of_llama_cpp(tmp_path: Path) -> None:
    layer = "model.layers.1.self_attn"
    changes = {f"{layer}.q_proj": change(64, 64), f"{layer}.k_proj": change(32, 64), f"{layer}.o_proj": change(64, 64)}
    reader = written(tmp_path / "a.gguf", "llama", changes)
    values = {name: field.contents() for name, field in reader.fields.items()}
    assert values["general.type"] == "adapter" and values["adapter.type"] == "lora"
    assert values["general.architecture"] == "llama" and values["adapter.lora.alpha"] == SCALING * RANK
    found = matrices(reader)
    names = {"q_proj": ("attn_q", 4), "k_proj": ("attn_k", 2), "o_proj": ("attn_output", 0)}
    assert len(found) == 2 * len(names)
    for part, (name, heads) in names.items():
        own = changes[f"{layer}.{part}"]
        assert np.array_equal(found[f"blk.1.{name}.weight.lora_a"], own.a.numpy())
        rows = permuted(own.b.numpy(), heads) if heads else own.b.numpy()
        assert np.array_equal(found[f"blk.1.{name}.weight.lora_b"], rows)


def test_ranks_of_their_own_are_scaled_alike(tmp_path: Path) -> None:
    """llama.cpp multiplies with alpha by the rank of each pair."""
    changes = {"model.layers.0.mlp.up_proj": change(128, 64), "model.layers.0.mlp.down_proj": change(64, 128, rank=2)}
    reader = written(tmp_path / "a.gguf", "llama", changes)
    found, alpha = matrices(reader), reader.fields["adapter.lora.alpha"].contents()
    for layer, name in (("up_proj", "ffn_up"), ("down_proj", "ffn_down")):
        a, b = (found[f"blk.0.{name}.weight.lora_{part}"] for part in "ab")
        expected = changes[f"model.layers.0.mlp.{layer}"].product().numpy()
        assert np.allclose(alpha / len(a) * (b @ a), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("dtype", "in_8_bits", "types"),
    [
        (torch.float32, False, {"F32"}),
        (torch.bfloat16, False, {"F16"}),
        (torch.bfloat16, True, {"Q8_0", "F16"}),
    ],
    ids=["float32", "16 bits", "8 bits"],
)
def test_types(tmp_path: Path, dtype: torch.dtype, in_8_bits: bool, types: set[str]) -> None:
    own = change(128, 64, dtype=dtype)
    reader = written(tmp_path / "a.gguf", "qwen2", {"model.layers.0.mlp.up_proj": own}, in_8_bits=in_8_bits)
    assert {one.tensor_type.name for one in reader.tensors} == types
    found = matrices(reader)
    for part, matrix in (("a", own.a), ("b", own.b)):
        assert np.allclose(found[f"blk.0.ffn_up.weight.lora_{part}"], matrix.float(), atol=0.02)


def test_experts_are_in_one_tensor(tmp_path: Path) -> None:
    names = [f"model.layers.0.block_sparse_moe.experts.{number}.w2" for number in range(4)]
    changes = {name: change(64, 128) for name in names}
    found = matrices(written(tmp_path / "a.gguf", "mixtral", changes))
    assert np.array_equal(found["blk.0.ffn_down_exps.weight.lora_a"], np.stack([changes[name].a for name in names]))
    assert np.array_equal(found["blk.0.ffn_down_exps.weight.lora_b"], np.stack([changes[name].b for name in names]))
    with pytest.raises(UnsupportedModelError, match="holds 4 experts, and the adapter changes 3 of them"):
        written(tmp_path / "b.gguf", "mixtral", {name: changes[name] for name in names[:3]})


def test_a_layer_that_no_file_has(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match=r"has no tensor of model\.layers\.0\.extra"):
        written(tmp_path / "a.gguf", "llama", {"model.layers.0.extra": change(64, 64)})
    assert not list(tmp_path.iterdir())
