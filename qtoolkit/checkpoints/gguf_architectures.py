"""List the models that llama.cpp knows of: its names of them and of their tensors, and the layout that it wants."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

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
# Norms behind attention and MLP, as Gemma 2 and 3 and OLMo 2 have them.
_NORMS_AFTER = {
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}
_ROUTED = {
    "mlp.gate": "ffn_gate_inp",
    "block_sparse_moe.gate": "ffn_gate_inp",
    "mlp.shared_expert_gate": "ffn_gate_inp_shexp",
    "mlp.shared_expert.gate_proj": "ffn_gate_shexp",
    "mlp.shared_expert.up_proj": "ffn_up_shexp",
    "mlp.shared_expert.down_proj": "ffn_down_shexp",
}
_PHI3 = {"self_attn.qkv_proj": "attn_qkv", "mlp.gate_up_proj": "ffn_up"}
_STARCODER2 = {"mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down"}
_GPT2 = {
    "ln_1": "attn_norm",
    "attn.c_attn": "attn_qkv",
    "attn.c_proj": "attn_output",
    "ln_2": "ffn_norm",
    "mlp.c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down",
}
_GPT2_OUTSIDE = {"wte": "token_embd", "wpe": "position_embd", "ln_f": "output_norm"}
_BLOCK = re.compile(r"model\.layers\.(\d+)\.(.+)")
_TANH = ("gelu_pytorch_tanh", "gelu_new")


@dataclass(frozen=True)
class Architecture:
    """How llama.cpp wants a kind of model.

    Attributes:
        name: llama.cpp's name of it.
        activations: names of the only one that it computes.
        interleaved: whether the rows of queries and keys are stored in pairs, (0, half), (1, half + 1) of each head.
        norm_shift: what is added to the weights of norms.
        transposed: whether the checkpoint holds the matrices of its blocks as [in, out].
        experts: whether each block has some.
        biases: whether its output of attention and its MLP may have biases; queries, keys and values always may.
        factors: whether it reads a tensor of rope factors, of Llama 3.
        names: of its tensors in blocks.
        outside: of those outside.
        block: the names of tensors in blocks; groups: number of the block, name in it.
    """

    name: str
    activations: tuple[str, ...] = ("silu",)
    interleaved: bool = False
    norm_shift: int = 0
    transposed: bool = False
    experts: bool = False
    biases: bool = False
    factors: bool = False
    names: Mapping[str, str] = field(default_factory=lambda: _IN_BLOCK)
    outside: Mapping[str, str] = field(default_factory=lambda: _OUTSIDE)
    block: re.Pattern[str] = _BLOCK


_LLAMA = Architecture("llama", interleaved=True, biases=True, factors=True)
# By transformers' `model_type`.
ARCHITECTURES = {
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "mixtral": Architecture("llama", interleaved=True, experts=True, factors=True, names=_IN_BLOCK | _ROUTED),
    "smollm3": Architecture("smollm3", interleaved=True),
    "granite": Architecture("granite", interleaved=True, biases=True, factors=True),
    "qwen2": Architecture("qwen2"),
    "qwen2_moe": Architecture("qwen2moe", experts=True, names=_IN_BLOCK | _ROUTED),
    "qwen3": Architecture("qwen3"),
    "qwen3_moe": Architecture("qwen3moe", experts=True, names=_IN_BLOCK | _ROUTED),
    "gemma": Architecture("gemma", _TANH, norm_shift=1),
    "gemma2": Architecture("gemma2", _TANH, norm_shift=1, names=_IN_BLOCK | _NORMS_AFTER),
    "gemma3_text": Architecture("gemma3", _TANH, norm_shift=1, names=_IN_BLOCK | _NORMS_AFTER),
    "olmo2": Architecture("olmo2", names=_IN_BLOCK | _NORMS_AFTER),
    "phi3": Architecture("phi3", names=_IN_BLOCK | _PHI3),
    "starcoder2": Architecture("starcoder2", _TANH, biases=True, names=_IN_BLOCK | _STARCODER2),
    "gpt2": Architecture(
        "gpt2",
        _TANH,
        transposed=True,
        biases=True,
        names=_GPT2,
        # The first checkpoints on the Hub have no prefix.
        outside={f"{prefix}{module}": name for prefix in ("", "transformer.") for module, name in _GPT2_OUTSIDE.items()}
        | {"lm_head": "output"},
        block=re.compile(r"(?:transformer\.)?h\.(\d+)\.(.+)"),
    ),
}


def architecture_of(config: Any) -> Architecture:
    """Return how llama.cpp wants a model.

    Args:
        config: transformers' config of the model.

    Raises:
        UnsupportedModelError: this kind of model is not written.
    """
    found = ARCHITECTURES.get(config.model_type)
    if found is None:
        # Images go into a file of their own (mmproj).
        more = "knows more" if config.get_text_config() is config else "writes its text, and its tower with --mmproj"
        raise UnsupportedModelError(
            f"no .gguf file is written of the architecture {config.model_type!r}: {', '.join(ARCHITECTURES)} are; "
            f"llama.cpp's convert_hf_to_gguf.py {more}"
        )
    return found


def head_dim_of(config: Any) -> int:
    """Return the size of a head."""
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def kv_heads_of(config: Any) -> int:
    """Return the heads of keys and values."""
    return int(getattr(config, "num_key_value_heads", None) or config.num_attention_heads)


def experts_of(config: Any) -> int:
    """Return the experts of a layer; 0 for a model without."""
    return int(getattr(config, "num_local_experts", None) or getattr(config, "num_experts", None) or 0)
