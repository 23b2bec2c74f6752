"""MLX checkpoints of small models, packed number by number, and the models that they stand for."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from tests.formats.compressed_tensors.packed_files import Recipe, Tensors, quantize
from tests.sample_models import random_model


def described(recipe: Recipe, others: dict[str, int]) -> dict[str, Any]:
    """What `config.json` says in `quantization`, as mlx-lm writes it: bits of `others` by their full names."""
    own = {name: {"group_size": recipe.group_size, "bits": bits} for name, bits in others.items()}
    return {"group_size": recipe.group_size, "bits": recipe.bits, "mode": "affine", **own}


def write_checkpoint(recipe: Recipe, folder: Path) -> tuple[Tensors, dict[str, Any]]:
    """Make `folder/dense`, a model, and `folder/packed`, its checkpoint; the tensors and `quantization` of the latter.

    The embedding is quantized, too.
    """
    dense, packed = folder / "dense", folder / "packed"
    model = random_model(recipe.architecture, recipe.dtype)
    # The row of the padding token is 0, and so would be its scale.
    model.get_input_embeddings().weight.data[2] += 0.01
    for path in (dense, packed):
        model.save_pretrained(path)
    tensors, full, others = load_file(dense / "model.safetensors"), {}, {}
    for name in list(tensors):
        full[name] = tensors[name].float()
        if name.endswith(("_proj.weight", "embed_tokens.weight", ".w1.weight", ".w2.weight", ".w3.weight")):
            stem = name.removesuffix(".weight")
            bits = next((bits for end, bits in recipe.bits_of.items() if stem.endswith(end)), recipe.bits)
            if bits != recipe.bits:
                others[stem] = bits
            stored, full[name] = quantize(tensors.pop(name).float(), recipe, bits)
            scales = stored["weight_scale"]
            tensors[name] = stored["weight_packed"].view(torch.uint32)
            tensors[f"{stem}.scales"] = scales
            tensors[f"{stem}.biases"] = (-(2.0 ** (bits - 1)) * scales.double()).to(scales.dtype)
    save_file(full, dense / "model.safetensors", {"format": "pt"})
    write(packed, tensors, described(recipe, others))
    return tensors, described(recipe, others)


def write(folder: Path, tensors: Tensors, quantization: Any, for_transformers: Any = None) -> None:
    """Write the weights, and what `config.json` says of them to MLX, and to transformers, the same unless given."""
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text()) | {"quantization": quantization}
    config["quantization_config"] = {**(for_transformers or quantization), "quant_method": "mlx"}
    (folder / "config.json").write_text(json.dumps(config))
