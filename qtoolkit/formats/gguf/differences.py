"""Find what a model computes otherwise than llama.cpp would, before a file of it is written."""

from collections.abc import Callable, Iterator
from typing import Any

from qtoolkit.checkpoints.gguf_architectures import Architecture, head_dim_of
from qtoolkit.checkpoints.gguf_options import LAYERS_OF_27B
from qtoolkit.errors import UnsupportedModelError
from qtoolkit.formats.gguf.ropes import ROPE_TYPES, rope_dims_of, ropes_of

# One layer of so many attends to everything in llama.cpp, the others to a window.
_PATTERNS = {"gemma2": 2, "gemma3": 6}
# llama.cpp has no size of a head for these.
_PLAIN_HEADS = ("granite", "qwen2", "qwen2moe", "olmo2", "phi3", "starcoder2")
# Options that it does not read from a file, though its converter writes some of them.
_YARN = {"beta_fast": 32, "beta_slow": 1, "truncate": True, "mscale": None, "mscale_all_dim": None}
# It has no place for an output of their own; none for one that is the token embedding.
_TIED = ("gemma", "gemma2")
_UNTIED = ("qwen2moe", "olmo2")
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
        yield from _rope(rope, architecture)
    if architecture.name in _PLAIN_HEADS and head_dim_of(config) * config.num_attention_heads != config.hidden_size:
        yield f"{architecture.name} with heads that make up its width, {config.hidden_size}"


def _rope(rope: dict[str, Any], architecture: Architecture) -> Iterator[str]:
    """Yield what a rope may have."""
    kind = rope.get("rope_type", "default")
    known = {"llama3": architecture.factors, "longrope": architecture.name == "phi3"}.get(kind, kind in ROPE_TYPES)
    if not known:
        yield f"{architecture.name} with no rope of the type {kind!r}"
    if kind == "yarn":
        for option, only in _YARN.items():
            if rope.get(option, only) not in (only, None):
                yield f"yarn with {option} {only}, not {rope[option]}"
    if rope.get("partial_rotary_factor", 1) != 1 and architecture.name != "phi3":
        yield f"{architecture.name} with a rope of each whole head"


def _own(config: Any, architecture: Architecture, *, tied: bool) -> Iterator[str]:
    """Yield what models of one architecture may have."""
    name = architecture.name
    if name in _TIED and not tied:
        yield f"{name} with the output tied to the token embedding"
    if name in _UNTIED and tied:
        yield f"{name} with an output of its own, not tied to the token embedding"
    if find := _OPTIONS.get(name):
        yield from find(config)


def _gemma(config: Any) -> Iterator[str]:
    """Yield what Gemma 2 and 3 may have."""
    name, layers = config.model_type.removesuffix("_text"), config.num_hidden_layers
    pattern = _PATTERNS[name]
    kinds = ["sliding_attention" if (layer + 1) % pattern else "full_attention" for layer in range(layers)]
    if list(config.layer_types) != kinds:
        yield f"{name} with full attention in each {'second' if name == 'gemma2' else 'sixth'} layer"
    largest = layers == LAYERS_OF_27B[name]
    scalar = config.hidden_size // config.num_attention_heads if largest else config.head_dim
    if config.query_pre_attn_scalar != scalar:
        yield f"queries over the root of {scalar}, not of {config.query_pre_attn_scalar}"
    if name == "gemma3" and config.attn_logit_softcapping is not None:
        yield "gemma3 without softcapping of attention"
    if name == "gemma2" and not (config.attn_logit_softcapping and config.final_logit_softcapping):
        yield "gemma2 with softcapping of attention and logits"
    if getattr(config, "use_bidirectional_attention", None):
        yield f"{name} with attention to what comes before"


def _qwen_moe(config: Any) -> Iterator[str]:
    """Yield what a Qwen with experts may have."""
    if config.mlp_only_layers or config.decoder_sparse_step != 1:
        yield "experts in every layer"
    if config.norm_topk_prob != (config.model_type == "qwen3_moe"):
        negation = "" if config.model_type == "qwen3_moe" else "do not "
        yield f"{config.model_type} with weights of its experts that {negation}sum to one"


def _smollm3(config: Any) -> Iterator[str]:
    """Yield what a SmolLM3 may have."""
    turned = [int((layer + 1) % _NO_ROPE != 0) for layer in range(config.num_hidden_layers)]
    if [*map(int, config.no_rope_layers)] != turned:
        yield "smollm3 with no rope in each fourth layer"


def _starcoder2(config: Any) -> Iterator[str]:
    """Yield what a StarCoder2 may have."""
    if not config.use_bias:
        yield "starcoder2 with biases"


def _gpt2(config: Any) -> Iterator[str]:
    """Yield what a GPT-2 may have."""
    if config.scale_attn_by_inverse_layer_idx or not config.scale_attn_weights:
        yield "gpt2 with attention scaled by the root of the size of a head alone"
    if config.add_cross_attention:
        yield "gpt2 without cross-attention"


def _phi3(config: Any) -> Iterator[str]:
    """Yield what a Phi-3 may have."""
    rope = ropes_of(config)["full_attention"]
    if rope.get("rope_type", "default") not in ("default", "longrope"):
        yield f"phi3 with a plain rope or longrope, not {rope['rope_type']!r}"
    for kind in ("long_factor", "short_factor"):
        if rope.get(kind) and len(rope[kind]) != rope_dims_of(config) // 2:
            yield f"a {kind} for each frequency, {rope_dims_of(config) // 2}, not {len(rope[kind])}"


# By llama.cpp's name of the architecture.
_OPTIONS: dict[str, Callable[[Any], Iterator[str]]] = {
    "gemma2": _gemma,
    "gemma3": _gemma,
    "qwen2moe": _qwen_moe,
    "qwen3moe": _qwen_moe,
    "smollm3": _smollm3,
    "starcoder2": _starcoder2,
    "gpt2": _gpt2,
    "phi3": _phi3,
}
