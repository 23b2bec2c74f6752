"""Small models of each architecture that a `.gguf` file is written of, with weights that no random numbers make."""

import zlib
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

_COMMON = {"vocab_size": 96, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2, "tie_word_embeddings": False}
_SIZES = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
_PLAIN = _COMMON | _SIZES | {"num_key_value_heads": 2, "max_position_embeddings": 128}
_GEMMA = _PLAIN | {"num_key_value_heads": 1, "head_dim": 32, "tie_word_embeddings": True}
_WINDOW = {"query_pre_attn_scalar": 32, "sliding_window": 8}
_ROUTED = _PLAIN | {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
_SCALES = {"embedding_multiplier": 12.0, "residual_multiplier": 0.25, "attention_multiplier": 0.125}
_SCALED = {"rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 32}
_LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "original_max_position_embeddings": 256,
    "long_factor": [1.0 + index / 2 for index in range(6)],
    "short_factor": [1.0 + index / 16 for index in range(6)],
    "partial_rotary_factor": 0.75,
}
SMALL: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", _PLAIN | {"attention_bias": True, "mlp_bias": True}),
    "llama, linear rope": ("llama", _PLAIN | {"rope_parameters": {"rope_type": "linear", **_SCALED}}),
    "llama, rope of llama3": (
        "llama",
        _PLAIN
        | {"rope_parameters": {"rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0, **_SCALED}},
    ),
    "mistral": ("mistral", _PLAIN | {"head_dim": 32, "sliding_window": None}),
    "mixtral": ("mixtral", _PLAIN | {"num_local_experts": 8, "num_experts_per_tok": 2, "sliding_window": None}),
    "smollm3": ("smollm3", _PLAIN | {"num_hidden_layers": 4, "tie_word_embeddings": True}),
    "granite": ("granite", _PLAIN | _SCALES | {"logits_scaling": 2.0, "attention_bias": True}),
    "qwen2": ("qwen2", _PLAIN),
    "qwen2, yarn": ("qwen2", _PLAIN | {"rope_parameters": {"rope_type": "yarn", **_SCALED}}),
    "qwen2_moe": ("qwen2_moe", _ROUTED | {"shared_expert_intermediate_size": 64}),
    "qwen3": ("qwen3", _PLAIN | {"head_dim": 32}),
    "qwen3_moe": ("qwen3_moe", _ROUTED | {"head_dim": 32, "norm_topk_prob": True}),
    "gemma": ("gemma", _GEMMA),
    "gemma2": ("gemma2", _GEMMA | _WINDOW | {"attn_logit_softcapping": 20.0, "final_logit_softcapping": 10.0}),
    "gemma3": ("gemma3_text", _GEMMA | _WINDOW | {"num_hidden_layers": 6}),
    "olmo2": ("olmo2", _PLAIN),
    "phi3": ("phi3", _PLAIN | {"original_max_position_embeddings": 128}),
    "phi3, longrope": (
        "phi3",
        _PLAIN
        | {"rope_parameters": _LONGROPE, "original_max_position_embeddings": 256, "max_position_embeddings": 512},
    ),
    "starcoder2": ("starcoder2", _PLAIN | {"tie_word_embeddings": True}),
    "gpt2": (
        "gpt2",
        _COMMON | {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 128, "tie_word_embeddings": True},
    ),
}


def small_model(title: str, **changes: object) -> PreTrainedModel:
    """A model of `SMALL` in float16, the same with every version of torch and transformers."""
    kind, settings = SMALL[title]
    # The window of some is part of the kinds of layers that their config makes of it.
    config = CONFIG_MAPPING[kind](**settings | changes)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float16).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.copy_(_values(name, weight, norm=0 if kind.startswith("gemma") else 1))
    return model


def _values(name: str, weight: torch.Tensor, *, norm: int) -> torch.Tensor:
    """Numbers that look random and that float16 holds: norms about `norm`, biases and matrices about 0.

    Multiples of an odd number in the order of their bits above the lowest ones, as in a congruential generator.
    """
    steps = torch.arange(1, weight.numel() + 1, dtype=torch.int64) * 1103515245 + zlib.crc32(name.encode())
    steps = (steps * 1103515245 + 12345) % (1 << 31)
    numbers = ((steps >> 16) % 255 - 127).reshape(weight.shape) / 1024
    is_norm = weight.dim() == 1 and name.endswith(("norm.weight", "ln_1.weight", "ln_2.weight", "ln_f.weight"))
    return numbers * 2 + norm if is_norm else numbers
