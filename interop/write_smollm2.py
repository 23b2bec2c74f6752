"""Quantize SmolLM2-135M once for each format, and show that the codes are the same: `write_smollm2.py FOLDER MODEL`.

GPTQ, compressed-tensors and MLX are to hold the same numbers: each layer's weights, computed in float64 from the
tensors of the files by the words of each format, are equal bit for bit. `interop/read_*.py` load them.
"""

import sys
from pathlib import Path

import torch
from common import TOKENS, keep
from safetensors.torch import load_file
from transformers import AutoTokenizer
from write import claim

import qtoolkit as qt

FORMATS = ("gptq", "compressed-tensors", "mlx")
OPTIONS = {"bits": 4, "group_size": 64, "calibration": "self", "num_samples": 4, "seq_len": 128}
# Corrections are tested elsewhere.
OPTIONS |= {"refine": 0, "qep_alpha": 0}
# A program that gives log probabilities gives an object for each word at each place.
FEW = TOKENS[:, :16]


def codes_of(words: torch.Tensor) -> torch.Tensor:
    """The 4-bit codes of words of 32 bits, the lowest first, along the last axis."""
    codes = (words.long()[..., None] >> torch.arange(0, 32, 4)) & 15
    return codes.flatten(-2)


def gptq_weight(tensors: dict[str, torch.Tensor], layer: str) -> torch.Tensor:
    """AutoGPTQ: words down the inputs, a zero point less one, a group for each input; (outputs, inputs)."""
    codes = codes_of(tensors[f"{layer}.qweight"].T)
    groups = tensors[f"{layer}.g_idx"].long()
    zeros = codes_of(tensors[f"{layer}.qzeros"])[groups].T + 1
    return (codes - zeros).double() * tensors[f"{layer}.scales"].double()[groups].T


def packed_weight(tensors: dict[str, torch.Tensor], layer: str) -> torch.Tensor:
    """compressed-tensors: codes from -8 to 7 stored 8 higher, along the inputs."""
    codes = codes_of(tensors[f"{layer}.weight_packed"]) - 8
    scales = tensors[f"{layer}.weight_scale"].double()
    return codes.double() * scales.repeat_interleave(codes.shape[1] // scales.shape[1], 1)


def mlx_weight(tensors: dict[str, torch.Tensor], layer: str) -> torch.Tensor:
    """MLX: codes from 0 to 15 times a scale, and a minimum."""
    codes = codes_of(tensors[f"{layer}.weight"].view(torch.int32))
    scales, minima = tensors[f"{layer}.scales"].double(), tensors[f"{layer}.biases"].double()
    inputs = codes.shape[1] // scales.shape[1]
    return codes.double() * scales.repeat_interleave(inputs, 1) + minima.repeat_interleave(inputs, 1)


def check_codes(folder: Path) -> None:
    """Exit where the three do not hold the same weights."""
    gptq, packed, mlx = (load_file(folder / name / "model.safetensors") for name in FORMATS)
    layers = [name.removesuffix(".qweight") for name in gptq if name.endswith(".qweight")]
    for layer in layers:
        weight = gptq_weight(gptq, layer)
        if not (torch.equal(weight, packed_weight(packed, layer)) and torch.equal(weight, mlx_weight(mlx, layer))):
            sys.exit(f"{layer} is not the same in the three formats")
    others = [name for name in packed if name in gptq]
    if not all(torch.equal(gptq[name], packed[name]) and torch.equal(gptq[name], mlx[name]) for name in others):
        sys.exit("what is not quantized is not the same in the three formats")
    print(f"{len(layers)} layers and {len(others)} other tensors are equal bit for bit in {', '.join(FORMATS)}")


def main(folder: Path, model: str) -> None:
    """Write all three."""
    for name in FORMATS:
        config = qt.GPTQ(**OPTIONS, format=name)
        qt.quantize(model, config, output=folder / name, overwrite=True, device="cpu")
        claim(folder / name, AutoTokenizer.from_pretrained(model))
        keep(qt.load(folder / name, device="cpu", dtype="float32").model, folder / name, FEW)
    check_codes(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
