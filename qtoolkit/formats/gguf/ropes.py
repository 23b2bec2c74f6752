"""Describe rotary position embeddings to llama.cpp: their scaling as values of the header, and tensors of factors."""

from math import log, sqrt
from typing import Any

from qtoolkit.checkpoints.gguf_architectures import head_dim_of
from qtoolkit.checkpoints.gguf_options import llama3_factors
from qtoolkit.checkpoints.gguf_writing import Value

# Kinds of scaling that llama.cpp computes.
ROPE_TYPES = ("default", "linear", "llama3", "yarn", "longrope")


def ropes_of(config: Any) -> dict[str, dict[str, Any]]:
    """Return the options of the rope by kind of layer; those of a model with one kind as of full attention."""
    rope = getattr(config, "rope_parameters", None)
    if not rope:
        return {}
    # Versions of transformers add options of a model with one kind beside those of two.
    kinds = {kind: rope[kind] for kind in ("full_attention", "sliding_attention") if kind in rope}
    return kinds or {"full_attention": rope}


def rope_dims_of(config: Any) -> int:
    """Return how many values of each head are turned."""
    rope = ropes_of(config).get("full_attention", {})
    return int(head_dim_of(config) * rope.get("partial_rotary_factor", 1))


def rope_values(name: str, config: Any) -> dict[str, Value]:
    """Return the values of a file's header that describe the rope.

    Args:
        name: llama.cpp's name of the architecture.
        config: transformers' config of the model.
    """
    ropes = ropes_of(config)
    if not ropes:
        return {}
    rope = ropes["full_attention"]
    values = {f"{name}.rope.freq_base": Value("float32", rope["rope_theta"])}
    if "sliding_attention" in ropes:
        values[f"{name}.rope.freq_base_swa"] = Value("float32", ropes["sliding_attention"]["rope_theta"])
    scaling = f"{name}.rope.scaling"
    kind = rope.get("rope_type", "default")
    if kind in ("linear", "yarn"):
        values[f"{scaling}.type"] = Value("string", kind)
        values[f"{scaling}.factor"] = Value("float32", rope["factor"])
    if kind == "yarn":
        original = rope["original_max_position_embeddings"]
        values[f"{scaling}.original_context_length"] = Value("uint32", int(original))
        for key in ("beta_fast", "beta_slow"):
            if rope.get(key) is not None:
                values[f"{scaling}.yarn_{key}"] = Value("float32", float(rope[key]))
        if rope.get("attention_factor") is not None:
            # llama.cpp multiplies with its own, which is that of transformers too where none is given.
            factor = rope["attention_factor"] / (0.1 * log(rope["factor"]) + 1)
            values[f"{scaling}.attn_factor"] = Value("float32", factor)
    if kind == "longrope":
        values[f"{scaling}.attn_factor"] = Value("float32", _longrope_attention(rope, config))
    return values


def rope_tensors(config: Any) -> dict[str, tuple[float, ...]]:
    """Return the tensors of factors by which the frequencies of a rope are divided, float32, by llama.cpp's names.

    LongRoPE has two, of which llama.cpp takes the long one where its context is longer than the original one;
    transformers takes it where the text is.
    """
    rope = ropes_of(config).get("full_attention", {})
    if rope.get("rope_type") == "llama3":
        return {"rope_freqs.weight": llama3_factors(rope, rope_dims_of(config))}
    if rope.get("rope_type") == "longrope":
        return {f"rope_factors_{kind}.weight": tuple(map(float, rope[f"{kind}_factor"])) for kind in ("long", "short")}
    return {}


def _longrope_attention(rope: dict[str, Any], config: Any) -> float:
    """Return by what LongRoPE scales the cosines and sines (https://arxiv.org/abs/2402.13753, section 3.2)."""
    if rope.get("attention_factor") is not None:
        return float(rope["attention_factor"])
    original = original_context_of(rope, config)
    factor = rope.get("factor") or config.max_position_embeddings / original
    return sqrt(1 + log(factor) / log(original)) if factor > 1 else 1.0


def original_context_of(rope: dict[str, Any], config: Any) -> int:
    """Return the tokens of a text up to which a model was trained before its rope was scaled."""
    return int(
        rope.get("original_max_position_embeddings")
        or getattr(config, "original_max_position_embeddings", None)
        or config.max_position_embeddings
    )
