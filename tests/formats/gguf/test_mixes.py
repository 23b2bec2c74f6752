"""The type of each tensor is llama.cpp's choice."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from qtoolkit.formats.gguf.mixes import MIXES, ModelShape, type_of
from tests.data import llama_cpp

# What llama.cpp's `llama_model_quantize` chose for small models of these shapes (`quantize_models.py` beside it).
CHOSEN: dict[str, Any] = json.loads((Path(llama_cpp.__file__).parent / "types.json").read_text(encoding="utf-8"))
SHAPES = {
    "llama, 24 layers, 8 heads for 2": (ModelShape(24, 8, 2, tied=False, architecture="llama"), 256, 256),
    "llama, 80 layers, 8 heads for 2": (ModelShape(80, 8, 2, tied=False, architecture="llama"), 256, 256),
    "tied, 17 layers, rows of 256 and 288": (ModelShape(17, 4, 4, tied=True, architecture="llama"), 256, 288),
    "qwen2, 8 layers, rows of 192 and 256": (ModelShape(8, 4, 2, tied=False, architecture="qwen2"), 192, 256),
    "qwen2, 80 layers, 8 heads for 2": (ModelShape(80, 8, 2, tied=False, architecture="qwen2"), 256, 256),
    "mixtral, 17 layers, 8 experts": (ModelShape(17, 8, 2, tied=False, architecture="llama", experts=8), 256, 256),
    "qwen2_moe, 9 layers, 4 experts": (ModelShape(9, 8, 2, tied=False, architecture="qwen2moe", experts=4), 256, 256),
    "phi3, 9 layers, 8 heads for 2": (ModelShape(9, 8, 2, tied=False, architecture="phi3"), 256, 256),
    "gpt2, tied, 9 layers": (ModelShape(9, 4, 4, tied=True, architecture="gpt2"), 256, 1024),
}


@pytest.mark.parametrize("title", CHOSEN)
def test_the_types_are_those_that_llama_cpp_chooses(title: str) -> None:
    """For each mix, with and without importance, each tensor of each layer, rows not divisible by 256 among them."""
    model, hidden, inner = SHAPES[title]
    for chosen_for, kinds in CHOSEN[title].items():
        quant_type, _, weighted = chosen_for.partition(", ")
        for kind, types in kinds.items():
            expected = types.split()
            columns = inner if kind.startswith("ffn_down") else hidden
            in_block = kind not in ("output", "token_embd", "position_embd")
            layers = model.layers if in_block else 1
            names = [f"blk.{layer}.{kind}.weight" if in_block else f"{kind}.weight" for layer in range(layers)]
            shape = replace(model, importance=weighted != "")
            found = [type_of(name, (64, columns), quant_type, shape).name for name in names]
            assert found == (expected if len(expected) > 1 else expected * layers), f"{chosen_for}, {kind}"


def test_all_mixes_that_quantize_are_compared() -> None:
    """None is left out of what llama.cpp was asked."""
    quantizing = {*MIXES} - {"F16", "BF16"}
    assert {*CHOSEN["llama, 24 layers, 8 heads for 2"]} == quantizing | {f"{mix}, weighted" for mix in quantizing}


def test_vectors_and_norms_stay_float32() -> None:
    """llama.cpp multiplies with them as they are."""
    model = SHAPES["qwen2, 8 layers, rows of 192 and 256"][0]
    assert type_of("blk.0.attn_q.bias", (256,), "Q4_K_M", model).name == "F32"
    assert type_of("blk.0.attn_norm.weight", (256,), "F16", model).name == "F32"


def test_rows_that_no_block_divides_stay_float16() -> None:
    """As in llama.cpp."""
    model = SHAPES["qwen2, 8 layers, rows of 192 and 256"][0]
    for quant_type in ("Q4_0", "Q4_K_M", "Q8_0"):
        assert type_of("blk.0.attn_q.weight", (64, 48), quant_type, model).name == "F16"
