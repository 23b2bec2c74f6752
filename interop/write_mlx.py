"""Write small MLX checkpoints, each with inputs, the logits and the weights that qtoolkit computes from it.

Run `python interop/write_mlx.py FOLDER`. `interop/read_mlx.py` loads them with mlx-lm, in an environment of its own.
"""

import sys
from pathlib import Path
from typing import Any

import torch
from common import EXPECTED, TOKENS, logits_of
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from write import claim

import qtoolkit as qt
from qtoolkit.kernels import QuantizedLinear

_SMALL = {"vocab_size": 256, "hidden_size": 128, "intermediate_size": 256, "num_attention_heads": 4}
_SMALL |= {"num_hidden_layers": 1, "num_key_value_heads": 2, "tie_word_embeddings": False}
_TIED = {"tie_word_embeddings": True}
# mlx-lm counts on a sixth layer, which sees all tokens, and rounds the root of the width to bfloat16.
_GEMMA = {"num_hidden_layers": 6, "hidden_size": 64, "head_dim": 32, **_TIED}
_QWEN = {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}, **_TIED}
# As Llama 3 has it. Where `rope_theta` and `rope_scaling` are missing, mlx-lm takes 10000 and none without a word.
_LLAMA3 = {
    "max_position_embeddings": 256,
    "rope_parameters": {
        "rope_type": "llama3",
        "rope_theta": 500000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    },
}
_QWEN3_MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64, "head_dim": 32}
_MIXED = {"rules": {"*.down_proj": {"bits": 8}, "*.v_proj": {"bits": 2}, "*.q_proj": {"bits": 5}}}
# (model type, changes of its config, options of GPTQ). Weights in float32, in which both compute the same.
MADE: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    **{f"{bits}bit": ("llama", {}, {"bits": bits}) for bits in (2, 3, 4, 5, 6, 8)},
    "llama3-positions": ("llama", _LLAMA3, {}),
    "64inputs": ("llama", _TIED, {"group_size": 64}),
    "mixed-128inputs-8bit-embeddings": ("llama", {}, {"group_size": 128, "embeddings": 8, **_MIXED}),
    "tied-8bit-embeddings": ("llama", _TIED, {"embeddings": 8}),
    "qwen2-tied-4bit-embeddings": ("qwen2", _QWEN, {"embeddings": 4, "bits": 6}),
    "gemma3-mixed-8bit-embeddings": ("gemma3_text", _GEMMA, {"embeddings": 8, **_MIXED}),
    "mixtral": ("mixtral", {"num_local_experts": 4}, {}),
    # Of its experts, mlx-lm joins weights and no scales.
    "qwen3_moe-16bit-experts": ("qwen3_moe", _QWEN3_MOE, {"exclude": ("lm_head", "*.experts.*")}),
    "bfloat16": ("llama", {"dtype": torch.bfloat16}, {"embeddings": 8}),
    "float16": ("llama", {"dtype": torch.float16}, {"full_range": False}),
    "asymmetric": ("llama", _TIED, {"sym": False, "lossy": True, "embeddings": 8}),
}
# The same of methods that round. Scales of 8 significant bits, with which float32 products are exact.
_SHORT: dict[str, Any] = {"dtype": torch.bfloat16}
ROUNDED: dict[str, tuple[str, dict[str, Any], Any]] = {
    "absmax-8bit-embeddings": ("llama", _TIED | _SHORT, qt.AbsMax(format="mlx", embeddings=8)),
    "zero-point": (
        "llama",
        _SHORT,
        qt.ZeroPoint(format="mlx", lossy=True, bits=4, granularity="group", group_size=32),
    ),
}
# Checkpoints of GPTQ's format that are converted: the model, and options of GPTQ.
CONVERTED: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "converted-4bit": ("llama", {}, {}),
    "converted-channels-8bit": ("qwen2", _QWEN, {"bits": 8, "group_size": -1}),
}


def random_model(model_type: str, changes: dict[str, Any]) -> PreTrainedModel:
    """A model whose logits differ from token to token, as random weights alone would not make them."""
    torch.manual_seed(0)
    dtype = changes.get("dtype", torch.float32)
    model = AutoModelForCausalLM.from_config(CONFIG_MAPPING[model_type](**_SMALL | changes), dtype=dtype)
    for parameter in model.parameters():
        if parameter.dim() == 2:
            parameter.data.mul_(3)
    return model


def main(folder: Path) -> None:
    """Write all kinds."""
    cheap = {"group_size": 32, "calibration": "self", "num_samples": 2, "seq_len": 32, "refine": 0, "qep_alpha": 0}
    gptq = {name: (*made, qt.GPTQ(format="mlx", **cheap | options)) for name, (*made, options) in MADE.items()}
    taken = {name: (*made, qt.GPTQ(**cheap | options)) for name, (*made, options) in CONVERTED.items()}
    for name, (model_type, changes, config) in {**gptq, **ROUNDED, **taken}.items():
        made = folder / f"{name}-gptq" if name in CONVERTED else folder / name
        qt.quantize(random_model(model_type, changes), config, output=made, overwrite=True, device="cpu")
        if name in CONVERTED:
            qt.convert(made, "mlx", folder / name, overwrite=True)
        model = qt.load(folder / name, device="cpu", dtype="float32").model
        weights = {
            f"weight of {module}": layer.dequantize()
            for module, layer in model.named_modules()
            if isinstance(layer, QuantizedLinear) and "experts" not in module  # mlx-lm puts these into one tensor
        }
        save_file({"tokens": TOKENS, "logits": logits_of(model), **weights}, folder / name / EXPECTED)
        claim(folder / name, None)
        print(name, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
