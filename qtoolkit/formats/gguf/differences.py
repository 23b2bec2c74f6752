"""Find what a model computes otherwise than llama.cpp would, before a file of it is written."""

from collections.abc import Iterator
from typing import Any

from qtoolkit.errors import UnsupportedModelError
from qtoolkit.formats.gguf.architectures import Architecture, head_dim_of
from qtoolkit.formats.gguf.ropes import ROPE_TYPES, rope_dims_of, ropes_of

# One layer of so many attends to everything in llama.cpp, the others to a window.
_PATTERNS = {"gemma2": 2, "gemma3": 6}
# The models with 27 billion weights, whose queries llama.cpp scales otherwise.
_LAYERS_OF_27B = {"gemma2": 46, "gemma3": 62}
# llama.cpp has no size of a head for these.
_PLAIN_HEADS = ("granite", "qwen2", "qwen2moe", "olmo2", "phi3", "starcoder2")
# One layer of so many has no rope.
_NO_ROPE = 4


def refuse_differences(config: Any, architecture: Architecture, *, tied: bool) -> None:
    """Refuse a model with an option that llama.cpp does not compute.

    Args:
        config: transformers' config of the model.
        architecture: of the model.
        tied: whether its output has the weight of the token embedding.

    Raises:
        UnsupportedModelError: it has one.
    """
    for reason in (*_common(config, architecture), *_own(config, architecture, tied=tied)):
        raise UnsupportedModelError(f"no .gguf file is written of this model: llama.cpp computes {reason}")


def _common(config: Any, architecture: Architecture) -> Iterator[str]:
    """Yield what any model may have."""
    options = (getattr(config, option, None) for option in ("hidden_act", "hidden_activation", "activation_function"))
    activation = next(filter(None, options), None)
    if activation not in architecture.activations:
        yield f"{architecture.name} with {architecture.activations[0]}, not {activation}"
    for rope in ropes_of(config).values():
        kind = rope.get("rope_type", "default")
        if kind not in ROPE_TYPES or (kind == "longrope") > (architecture.name == "phi3"):
            yield f"no rope of the type {kind!r} in {architecture.name}"
        if kind == "yarn" and rope.get("attention_factor") is not None:
            yield "yarn with its own factor of attention, not another"
        if rope.get("partial_rotary_factor", 1) != 1 and architecture.name != "phi3":
            yield "no rope of a part of each head"
    if architecture.name in _PLAIN_HEADS and head_dim_of(config) * config.num_attention_heads != config.hidden_size:
        yield f"{architecture.name} with heads that make up its width, {config.hidden_size}"


def _own(config: Any, architecture: Architecture, *, tied: bool) -> Iterator[str]:
    """Yield what models of one architecture may have."""
    name = architecture.name
    if name in _PATTERNS:
        yield from _gemma(config, name)
    if name in ("gemma", "gemma2") and not tied:
        yield f"{name} with the output tied to the token embedding"
    if name in ("qwen2moe", "olmo2") and tied:
        yield f"{name} with an output of its own, not tied to the token embedding"
    if name in ("qwen2moe", "qwen3moe"):
        yield from _routed(config, name)
    if name == "smollm3":
        turned = [int((layer + 1) % _NO_ROPE != 0) for layer in range(config.num_hidden_layers)]
        if [*map(int, config.no_rope_layers)] != turned:
            yield "smollm3 with no rope in each fourth layer"
    if name == "starcoder2" and not config.use_bias:
        yield "starcoder2 with biases"
    if name == "gpt2":
        if config.scale_attn_by_inverse_layer_idx or not config.scale_attn_weights:
            yield "gpt2 with attention scaled by the root of the size of a head alone"
        if config.add_cross_attention:
            yield "gpt2 without cross-attention"
    if name == "phi3":
        yield from _phi3(config)


def _gemma(config: Any, name: str) -> Iterator[str]:
    """Yield what Gemma 2 and 3 may have."""
    layers, pattern = config.num_hidden_layers, _PATTERNS[name]
    kinds = ["sliding_attention" if (layer + 1) % pattern else "full_attention" for layer in range(layers)]
    if list(config.layer_types) != kinds:
        yield f"{name} with full attention in each {'second' if pattern == 2 else 'sixth'} layer"
    largest = layers == _LAYERS_OF_27B[name]
    scalar = config.hidden_size // config.num_attention_heads if largest else config.head_dim
    if config.query_pre_attn_scalar != scalar:
        yield f"queries over the root of {scalar}, not of {config.query_pre_attn_scalar}"
    if name == "gemma3" and config.attn_logit_softcapping is not None:
        yield "gemma3 without softcapping of attention"
    if name == "gemma2" and not (config.attn_logit_softcapping and config.final_logit_softcapping):
        yield "gemma2 with softcapping of attention and logits"
    if getattr(config, "use_bidirectional_attention", None):
        yield f"{name} with attention to what comes before"


def _routed(config: Any, name: str) -> Iterator[str]:
    """Yield what a Qwen with experts may have."""
    if config.mlp_only_layers or config.decoder_sparse_step != 1:
        yield f"{name} with experts in every layer"
    if config.norm_topk_prob != (name == "qwen3moe"):
        yield f"{name} with weights of its experts that {'' if name == 'qwen3moe' else 'do not '}sum to one"


def _phi3(config: Any) -> Iterator[str]:
    """Yield what a Phi-3 may have."""
    rope = ropes_of(config)["full_attention"]
    if rope.get("rope_type", "default") not in ("default", "longrope"):
        yield f"phi3 with a plain rope or longrope, not {rope['rope_type']!r}"
    for kind in ("long_factor", "short_factor"):
        if rope.get(kind) and len(rope[kind]) != rope_dims_of(config) // 2:
            yield f"a {kind} for each frequency, {rope_dims_of(config) // 2}, not {len(rope[kind])}"
