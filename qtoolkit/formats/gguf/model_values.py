"""Describe a model's config to llama.cpp: the numbers in a file's header, as `convert_hf_to_gguf.py` writes them."""

from typing import Any

from qtoolkit.checkpoints.gguf_architectures import Architecture, experts_of, head_dim_of, kv_heads_of
from qtoolkit.checkpoints.gguf_options import COUNTS, SCALES
from qtoolkit.checkpoints.gguf_writing import Value
from qtoolkit.formats.gguf.ropes import original_context_of, rope_dims_of, rope_values, ropes_of

# Those that compute the window of Gemma; the others let each token attend to all before it.
_WINDOWED = ("gemma2", "gemma3")
_ROPE_DIMS = ("llama", "smollm3", "granite", "phi3")
# Those of experts, which not every model has.
_OF_EXPERTS = ("moe_intermediate_size", "shared_expert_intermediate_size")


def numbers_of(config: Any, architecture: Architecture) -> dict[str, Value]:
    """Return the values of a file's header that describe the model."""
    name = architecture.name
    counts = {
        "block_count": config.num_hidden_layers,
        "context_length": context_of(config, architecture),
        "embedding_length": config.hidden_size,
        "feed_forward_length": _inner_size(config),
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": kv_heads_of(config),
        "attention.key_length": head_dim_of(config),
        "attention.value_length": head_dim_of(config),
        "vocab_size": config.vocab_size,
    }
    if name in _ROPE_DIMS:
        counts["rope.dimension_count"] = rope_dims_of(config)
    if name in _WINDOWED:
        counts["attention.sliding_window"] = config.sliding_window
    if name == "phi3":
        counts["attention.sliding_window"] = config.sliding_window or 0
        counts["rope.scaling.original_context_length"] = original_context_of(ropes_of(config)["full_attention"], config)
    if architecture.experts:
        counts["expert_count"] = experts_of(config)
        counts["expert_used_count"] = config.num_experts_per_tok
        counts |= {COUNTS[option]: getattr(config, option) for option in _OF_EXPERTS if hasattr(config, option)}
    scales = {key: getattr(config, option) for option, key in SCALES.items() if getattr(config, option, None)}
    return (
        {f"{name}.{key}": Value("uint32", int(count)) for key, count in counts.items()}
        | {f"{name}.{key}": Value("float32", float(scale)) for key, scale in scales.items()}
        | rope_values(name, config)
    )


def context_of(config: Any, architecture: Architecture) -> int:
    """Return the tokens up to which llama.cpp computes what the model does: it knows the window of Gemma alone."""
    window = None if architecture.name in _WINDOWED else getattr(config, "sliding_window", None)
    return int(min(config.max_position_embeddings, window or config.max_position_embeddings))


def _inner_size(config: Any) -> int:
    """Return the values between the two matrices of an MLP."""
    if config.model_type == "gpt2":
        return int(config.n_inner or 4 * config.n_embd)
    return int(config.intermediate_size)
