"""Quantized folders whose codes a `.gguf` file takes over, and what the `gguf` package finds in such a file."""

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from safetensors.torch import load_file

import qtoolkit as qt
from qtoolkit.checkpoints.gguf_architectures import ARCHITECTURES
from qtoolkit.checkpoints.gguf_places import places_of
from tests.formats.compressed_tensors import packed_files
from tests.formats.gptq import files
from tests.formats.mlx import affine_files
from tests.jobs.converted import Array
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


def coded_names(source: Path) -> list[str]:
    """The names of the quantized layers of a folder, by the tensors that only such have."""
    ends = (".qweight", ".weight_packed", ".scales", ".scale")
    tensors = load_file(source / "model.safetensors")
    return sorted({name.removesuffix(end) for name in tensors for end in ends if name.endswith(end)})
