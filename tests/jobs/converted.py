"""What the numbers of a quantized file stand for, in float64 and unpacked bit by bit, whatever its format."""

import json
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

Array = NDArray[np.float64]
# The tensor of each format that holds the codes of a layer, by the end of its name.
CODES = {
    "gptq": ".qweight",
    "compressed-tensors": ".weight_packed",
    "mlx": ".scales",
    "qtoolkit": ".scale",
}


def strings(words: torch.Tensor, bits: int, count: int) -> Array:
    """The first `count` numbers of each row of words [n, words], each row one string of bits, low bits first."""
    data = np.ascontiguousarray(words.contiguous().view(torch.int32).numpy()).view(np.uint8)
    digits = np.unpackbits(data, axis=1, bitorder="little")[:, : bits * count]
    return digits.reshape(len(data), count, bits) @ (2.0 ** np.arange(bits))


def weights_of(folder: Path, shapes: dict[str, tuple[int, int]]) -> dict[str, Array]:
    """W[out, in] of each layer by its name in the file; `shapes` are (out, in)."""
    tensors = load_file(folder / "model.safetensors")
    values = json.loads((folder / "config.json").read_text())["quantization_config"]
    end = CODES[values["quant_method"]]
    names = [name.removesuffix(end) for name in tensors if name.endswith(end)]
    assert names and set(names) == set(shapes)
    kind = values["quant_method"].replace("-", "_")
    decode = {"gptq": gptq, "compressed_tensors": packed, "mlx": mlx, "qtoolkit": native}[kind]
    own = {
        name: {key[len(name) + 1 :]: tensors[key] for key in tensors if key.startswith(f"{name}.")} for name in names
    }
    versions = {"less": values.get("checkpoint_format") == "gptq"}
    return {name: decode(one, shapes[name], **versions) for name, one in own.items()}


def doubles(tensor: torch.Tensor) -> Array:
    return np.asarray(tensor.double().numpy())


def gptq(one: dict[str, torch.Tensor], shape: tuple[int, int], *, less: bool) -> Array:
    outputs, inputs = shape
    bits = 32 * len(one["qweight"]) // inputs
    zeros = strings(one["qzeros"], bits, outputs) + less  # [groups, out]
    groups = one["g_idx"].numpy()
    codes = strings(one["qweight"].T, bits, inputs)  # [out, in]
    return (codes - zeros.T[:, groups]) * doubles(one["scales"]).T[:, groups]


def packed(one: dict[str, torch.Tensor], shape: tuple[int, int], *, less: bool) -> Array:
    outputs, inputs = shape
    bits = 32 * one["weight_packed"].shape[1] // inputs
    scale = doubles(one["weight_scale"])  # [out, groups]
    zeros = np.full_like(scale, 2.0 ** (bits - 1))
    if "weight_zero_point" in one:
        zeros = strings(one["weight_zero_point"].T, bits, outputs).T
    size = inputs // scale.shape[1]
    codes = strings(one["weight_packed"], bits, inputs)
    return (codes - zeros.repeat(size, axis=1)) * scale.repeat(size, axis=1)


def mlx(one: dict[str, torch.Tensor], shape: tuple[int, int], *, less: bool) -> Array:
    bits = 32 * one["weight"].shape[1] // shape[1]
    size = shape[1] // one["scales"].shape[1]
    scale, low = (doubles(one[name]).repeat(size, axis=1) for name in ("scales", "biases"))
    return strings(one["weight"], bits, shape[1]) * scale + low


def native(one: dict[str, torch.Tensor], shape: tuple[int, int], *, less: bool) -> Array:
    weight = one["weight"]
    codes = weight.double().numpy()
    if weight.dtype == torch.uint8:
        # Two codes of 4 bits, the first one in the low bits, each with its sign.
        pairs = np.stack([weight.numpy() & 15, weight.numpy() >> 4], axis=2).reshape(len(weight), -1).astype(float)
        codes = np.where(pairs > 7, pairs - 16, pairs)
    scale = doubles(one["scale"])
    zeros = doubles(one["zero_point"]) if "zero_point" in one else np.zeros_like(scale)
    size = shape[1] // scale.shape[1]
    return (codes - zeros.repeat(size, axis=1)) * scale.repeat(size, axis=1)
