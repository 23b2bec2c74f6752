"""Name the options of a model's config as headers of `.gguf` files do, for who writes them and for who reads them."""

from math import tau
from typing import Any

# Names in configs -> in headers, after the name of the architecture.
COUNTS = {
    "max_position_embeddings": "context_length",
    "num_hidden_layers": "block_count",
    "hidden_size": "embedding_length",
    "intermediate_size": "feed_forward_length",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "head_dim": "attention.key_length",
    "vocab_size": "vocab_size",
    "sliding_window": "attention.sliding_window",
    "num_experts_per_tok": "expert_used_count",
    "moe_intermediate_size": "expert_feed_forward_length",
    "shared_expert_intermediate_size": "expert_shared_feed_forward_length",
}
SCALES = {
    "final_logit_softcapping": "final_logit_softcapping",
    "attn_logit_softcapping": "attn_logit_softcapping",
    "attention_multiplier": "attention.scale",
    "embedding_multiplier": "embedding_scale",
    "residual_multiplier": "residual_scale",
    "logits_scaling": "logit_scale",
    "rms_norm_eps": "attention.layer_norm_rms_epsilon",
    "layer_norm_epsilon": "attention.layer_norm_epsilon",
    "norm_epsilon": "attention.layer_norm_epsilon",
}
# The layers of the models with 27 billion weights, whose queries llama.cpp scales otherwise than those of the others.
LAYERS_OF_27B = {"gemma2": 46, "gemma3": 62}


def llama3_factors(rope: dict[str, Any], dims: int) -> tuple[float, ...]:
    """Return the factors by which a rope of Llama 3 divides its frequencies.

    Waves shorter than `original / high_freq_factor` positions stay, those longer than `original / low_freq_factor` are
    divided by the factor, and between, one over the interpolated frequency; see transformers' `rope_type="llama3"`.

    Args:
        rope: its options, as a config has them.
        dims: how many values of each head it turns.
    """
    low, high, factor = (float(rope[key]) for key in ("low_freq_factor", "high_freq_factor", "factor"))
    context = rope["original_max_position_embeddings"]
    factors = []
    for index in range(0, dims, 2):
        turns = context * rope["rope_theta"] ** (-index / dims) / tau
        smooth = min(1.0, max(0.0, (turns - low) / (high - low)))
        factors.append(1 / ((1 - smooth) / factor + smooth))
    return tuple(factors)
