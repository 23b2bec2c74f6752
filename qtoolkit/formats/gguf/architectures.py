"""Describe models to llama.cpp: which architectures, the names of their tensors, and the numbers of their configs."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from qtoolkit.checkpoints.gguf_writing import Value
from qtoolkit.errors import UnsupportedModelError

# Names in a checkpoint -> llama.cpp's, outside the blocks and in them.
_OUTSIDE = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
_IN_BLOCK = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_GEMMA = {
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}
_BLOCK = re.compile(r"model\.layers\.(\d+)\.(.+)")
# One layer of six attends to everything in llama.cpp's Gemma 3, the others to a window.
_GEMMA_PATTERN = 6
# The model with 27 billion weights, whose queries llama.cpp scales otherwise.
_GEMMA_27B_LAYERS = 62


@dataclass(frozen=True)
class Architecture:
    """How llama.cpp wants a kind of model.

    Attributes:
        name: llama.cpp's name of it.
        activation: the only one that it computes.
        interleaved: whether the rows of queries and keys are stored in pairs, (0, half), (1, half + 1) of each head.
        norm_shift: what is added to the weights of norms.
        names: of its tensors in blocks.
    """

    name: str
    activation: str
    interleaved: bool = False
    norm_shift: int = 0
    names: Mapping[str, str] = field(default_factory=lambda: _IN_BLOCK)


_LLAMA = Architecture("llama", "silu", interleaved=True)
# By transformers' `model_type`.
ARCHITECTURES = {
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": Architecture("qwen2", "silu"),
    "qwen3": Architecture("qwen3", "silu"),
    "gemma3_text": Architecture("gemma3", "gelu_pytorch_tanh", norm_shift=1, names=_IN_BLOCK | _GEMMA),
}


def architecture_of(config: Any) -> Architecture:
    """Return how llama.cpp wants a model.

    Args:
        config: transformers' config of the model.

    Raises:
        UnsupportedModelError: this kind of model is not written, or it has an option that llama.cpp does not compute.
    """
    found = ARCHITECTURES.get(config.model_type)
    if found is None:
        raise UnsupportedModelError(
            f"no .gguf file is written of the architecture {config.model_type!r}: {', '.join(ARCHITECTURES)} are; "
            "llama.cpp's convert_hf_to_gguf.py knows more"
        )
    if reason := next(_reasons(config, found), ""):
        raise UnsupportedModelError(f"no .gguf file is written of this model: llama.cpp computes {reason}")
    return found


def _reasons(config: Any, architecture: Architecture) -> Iterator[str]:
    """Yield what llama.cpp computes otherwise than the model."""
    activation = getattr(config, "hidden_act", None) or config.hidden_activation
    if activation != architecture.activation:
        yield f"{architecture.name} with {architecture.activation}, not {activation}"
    for rope in _ropes(config).values():
        kind = rope.get("rope_type", "default")
        if kind not in ("default", "linear", "llama3", "yarn"):
            yield f"no rope of the type {kind!r}"
        if rope.get("partial_rotary_factor", 1) != 1:
            yield "no rope of a part of each head"
    if architecture.name != "gemma3":
        return
    kinds = ["sliding_attention" if (i + 1) % _GEMMA_PATTERN else "full_attention" for i in range(_layers(config))]
    if list(config.layer_types) != kinds:
        yield "gemma3 with full attention in each sixth layer"
    if config.query_pre_attn_scalar != config.head_dim and _layers(config) != _GEMMA_27B_LAYERS:
        yield f"queries over the root of {config.head_dim}, not of {config.query_pre_attn_scalar}"
    if config.attn_logit_softcapping is not None:
        yield "gemma3 without softcapping of attention"


def tensor_name(source: str, architecture: Architecture) -> str | None:
    """Return llama.cpp's name of a tensor; None where it has none.

    Args:
        source: its name in a checkpoint, "model.layers.0.self_attn.q_proj.weight".
        architecture: of the model.
    """
    module, _, kind = source.rpartition(".")
    if kind not in ("weight", "bias"):
        return None
    if found := _BLOCK.fullmatch(module):
        name = architecture.names.get(found[2])
        return name and f"blk.{found[1]}.{name}.{kind}"
    name = _OUTSIDE.get(module)
    return name and f"{name}.{kind}"


def numbers_of(config: Any, architecture: Architecture) -> dict[str, Value]:
    """Return the values of a file's header that describe the model, as `convert_hf_to_gguf.py` writes them."""
    name = architecture.name
    head_dim = head_dim_of(config)
    values = {
        f"{name}.block_count": _count(_layers(config)),
        f"{name}.context_length": _count(context_of(config, architecture)),
        f"{name}.embedding_length": _count(config.hidden_size),
        f"{name}.feed_forward_length": _count(config.intermediate_size),
        f"{name}.attention.head_count": _count(config.num_attention_heads),
        f"{name}.attention.head_count_kv": _count(config.num_key_value_heads),
        f"{name}.attention.layer_norm_rms_epsilon": Value("float32", config.rms_norm_eps),
        f"{name}.attention.key_length": _count(head_dim),
        f"{name}.attention.value_length": _count(head_dim),
        f"{name}.vocab_size": _count(config.vocab_size),
    }
    if name == "llama":
        values[f"{name}.rope.dimension_count"] = _count(head_dim)
    if name == "gemma3":
        values[f"{name}.attention.sliding_window"] = _count(config.sliding_window)
        if config.final_logit_softcapping:
            values[f"{name}.final_logit_softcapping"] = Value("float32", config.final_logit_softcapping)
    return values | _rope_values(name, _ropes(config))


def context_of(config: Any, architecture: Architecture) -> int:
    """Return the tokens up to which llama.cpp computes what the model does: it knows the window of Gemma alone."""
    window = None if architecture.name == "gemma3" else getattr(config, "sliding_window", None)
    return int(min(config.max_position_embeddings, window or config.max_position_embeddings))


def rope_factors(config: Any) -> list[float] | None:
    """Return by what each frequency of a rope of Llama 3 is divided, of which llama.cpp wants a tensor; None without.

    Waves shorter than `original / high_freq_factor` positions stay, those longer than `original / low_freq_factor` are
    divided by the factor, and between, one over the interpolated frequency; see transformers' `rope_type="llama3"`.
    """
    rope = _ropes(config).get("full_attention", {})
    if rope.get("rope_type") != "llama3":
        return None
    dims = head_dim_of(config)
    low, high, factor = (float(rope[key]) for key in ("low_freq_factor", "high_freq_factor", "factor"))
    context = rope["original_max_position_embeddings"]
    factors = []
    for index in range(0, dims, 2):
        turns = context * rope["rope_theta"] ** (-index / dims) / 6.283185307179586
        smooth = min(1.0, max(0.0, (turns - low) / (high - low)))
        factors.append(1 / ((1 - smooth) / factor + smooth))
    return factors


def head_dim_of(config: Any) -> int:
    """Return the size of a head."""
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def _ropes(config: Any) -> dict[str, dict[str, Any]]:
    """Return the options of the rope by kind of layer; those of a model with one kind as of full attention."""
    rope = config.rope_parameters
    # Versions of transformers add options of a model with one kind beside those of two.
    kinds = {kind: rope[kind] for kind in ("full_attention", "sliding_attention") if kind in rope}
    return kinds or {"full_attention": rope}


def _rope_values(name: str, ropes: dict[str, dict[str, Any]]) -> dict[str, Value]:
    rope = ropes["full_attention"]
    values = {f"{name}.rope.freq_base": Value("float32", rope["rope_theta"])}
    if "sliding_attention" in ropes:
        values[f"{name}.rope.freq_base_swa"] = Value("float32", ropes["sliding_attention"]["rope_theta"])
    kind = rope.get("rope_type", "default")
    if kind in ("linear", "yarn"):
        values[f"{name}.rope.scaling.type"] = Value("string", kind)
        values[f"{name}.rope.scaling.factor"] = Value("float32", rope["factor"])
    if kind == "yarn":
        original = rope["original_max_position_embeddings"]
        values[f"{name}.rope.scaling.original_context_length"] = _count(original)
        for key, stored in (("beta_fast", "yarn_beta_fast"), ("beta_slow", "yarn_beta_slow")):
            if rope.get(key) is not None:
                values[f"{name}.rope.scaling.{stored}"] = Value("float32", rope[key])
    return values


def _layers(config: Any) -> int:
    return int(config.num_hidden_layers)


def _count(number: int) -> Value:
    return Value("uint32", int(number))
