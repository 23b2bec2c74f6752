"""Codes go into the blocks of a `.gguf` file unchanged: the `gguf` package finds the numbers of the source there."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import qtoolkit as qt
from qtoolkit.errors import ConfigError, UnsupportedModelError
from qtoolkit.formats.gguf.architectures import ARCHITECTURES
from qtoolkit.formats.gguf.tensor_places import places_of
from qtoolkit.publishing import read_receipt
from qtoolkit.records import ProgressEvent
from tests.formats.awq import awq_files
from tests.formats.compressed_tensors import packed_files
from tests.formats.gptq import files
from tests.formats.mlx import affine_files
from tests.jobs.converted import Array, weights_of
from tests.jobs.test_converting import shapes_of
from tests.sample_models import random_model

GROUPS: dict[str, Any] = {"granularity": "group", "group_size": 32}


def tensors_in(folder: Path) -> dict[str, Any]:
    """The tensors of the one file in a folder, as the `gguf` package finds them."""
    (file,) = folder.glob("*.gguf")
    return {tensor.name: tensor for tensor in gguf.GGUFReader(file).tensors}


def weights_in(folder: Path, names: Any) -> dict[str, Array]:
    """W[out, in] of layers by their names in a checkpoint, rows of queries and keys in its order."""
    config = json.loads((folder / "config.json").read_text())
    architecture = ARCHITECTURES[config["model_type"]]
    tensors = tensors_in(folder)
    found = {}
    for name in names:
        (place,) = places_of(f"{name}.weight", architecture)
        tensor = tensors[place.name]
        weight = gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float64)
        weight = weight if place.expert is None else weight[place.expert]
        heads = {"attn_q": "num_attention_heads", "attn_k": "num_key_value_heads"}.get(place.name.split(".")[-2])
        if architecture.interleaved and heads:
            # Pairs (j, half) of each head, as llama.cpp's rope turns them.
            pairs = weight.reshape(config[heads], -1, 2, weight.shape[1])
            weight = pairs.swapaxes(1, 2).reshape(weight.shape)
        found[name] = weight
    return found


def types_in(folder: Path) -> dict[str, str]:
    return {name: tensor.tensor_type.name for name, tensor in tensors_in(folder).items()}


def same(one: dict[str, Array], other: dict[str, Array]) -> None:
    assert one.keys() == other.keys()
    for name, weight in one.items():
        assert np.array_equal(weight, other[name]), name


def gptq(folder: Path, **changes: Any) -> Path:
    files.write_checkpoint(files.Recipe(**changes), folder)
    return folder / "gptq"


def packed(folder: Path, **changes: Any) -> Path:
    packed_files.write_checkpoint(packed_files.Recipe(**changes), folder)
    return folder / "packed"


def mlx(folder: Path) -> Path:
    affine_files.write_checkpoint(packed_files.Recipe("llama_tied", bits_of={"embed_tokens": 8}), folder)
    return folder / "packed"


def made(folder: Path, config: Any) -> Path:
    random_model("llama").save_pretrained(folder / "dense")
    qt.quantize(folder / "dense", config, output=folder / "made", device="cpu")
    return folder / "made"


def auto_round(folder: Path) -> Path:
    """AutoRound's own folders are GPTQ's tensors under another config."""
    source = gptq(folder)
    config = json.loads((source / "config.json").read_text())
    own = {"bits": 4, "group_size": 32, "sym": True, "data_type": "int", "packing_format": "auto_round:auto_gptq"}
    config["quantization_config"] = {"quant_method": "auto-round", **own}
    (source / "config.json").write_text(json.dumps(config))
    return source


EXACT: dict[str, tuple[Callable[[Path], Path], str, dict[str, Any]]] = {
    "GPTQ, 4 bits": (gptq, "Q4_0", {}),
    "GPTQ, 8 bits, one scale an output": (lambda folder: gptq(folder, bits=8, group_size=-1), "Q8_0", {}),
    "GPTQ of Mixtral": (lambda folder: gptq(folder, architecture="mixtral"), "Q4_0", {}),
    "GPTQ of GPT-2": (lambda folder: gptq(folder, architecture="gpt2"), "Q4_0", {}),
    "GPTQ of Qwen2, groups of 64": (lambda folder: gptq(folder, architecture="qwen2", group_size=64), "Q4_0", {}),
    "compressed-tensors, 5 bits": (lambda folder: packed(folder, bits=5), "Q5_0", {}),
    "MLX, embeddings too": (mlx, "Q4_0", {}),
    "absmax, native": (lambda folder: made(folder, qt.AbsMax(bits=8, format="native", **GROUPS)), "Q8_0", {}),
    "3 bits when asked": (lambda folder: gptq(folder, bits=3), "Q4_0", {"wider": True}),
    "6 bits when asked": (lambda folder: packed(folder, bits=6), "Q8_0", {"wider": True}),
    "zero points, when asked": (lambda folder: gptq(folder, sym=False), "Q5_0", {"wider": True}),
}


@pytest.mark.parametrize("title", EXACT)
def test_the_file_holds_the_same_numbers(title: str, tmp_path: Path) -> None:
    write, type_, options = EXACT[title]
    source = write(tmp_path)
    record = qt.convert(source, "gguf", tmp_path / "out", **options)
    assert not record.lossy
    dense = load_file(tmp_path / "dense" / "model.safetensors")
    names = coded_names(source)
    shapes = {name: tuple(dense[f"{name}.weight"].shape) for name in names}
    if title == "GPTQ of GPT-2":
        # [in, out] there.
        expected = {name: dense[f"{name}.weight"].double().numpy().T for name in names}
    else:
        expected = weights_of(source, shapes)  # type: ignore[arg-type]
    same(expected, weights_in(tmp_path / "out", names))
    config = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]
    assert config["quant_type"] == type_
    assert type_ in types_in(tmp_path / "out").values()


def coded_names(source: Path) -> list[str]:
    """The names of the quantized layers of a folder, by the tensors that only such have."""
    ends = (".qweight", ".weight_packed", ".scales", ".scale")
    tensors = load_file(source / "model.safetensors")
    return sorted({name.removesuffix(end) for name in tensors for end in ends if name.endswith(end)})
