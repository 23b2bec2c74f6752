"""Shrink the config of any model that transformers knows, and build the model with random weights.

Rules go by the names of a config's numbers: sizes become small multiples of each other, and of the layers one of each
kind is kept. What the rules cannot know stands in `EXCEPTIONS`.
"""

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

HIDDEN, INTERMEDIATE, VOCABULARY, HEADS, GROUPS, HEAD_DIM, LAYERS, EXPERTS, POSITIONS = (
    64,
    128,
    256,
    4,
    2,
    16,
    2,
    4,
    128,
)
# More kinds of layers than this are not told apart.
MAX_LAYERS = 6
# The first whose name matches decides.
_RULES: tuple[tuple[str, int], ...] = (
    (r"vocab_size|vocab_size_per_layer_input", VOCABULARY),
    (r"bos_token_id|decoder_start_token_id", 1),
    (r"eos_token_id|forced_eos_token_id|sep_token_id|eod_token_id", 2),
    (r"pad_token_id", 0),
    (
        r"num_hidden_layers|n_layers?|num_layers|(encoder|decoder)_layers|layers|depth|num_(encoder|decoder)_layers",
        LAYERS,
    ),
    (r"num_blocks|num_(encoder|decoder)_blocks", LAYERS),
    (r"(num_|n_)?(key_value|kv)_(heads|n_heads)|num_kv_heads|kv_n_heads|\w*num_key_value_heads", GROUPS),
    (r"\w*num_attention_heads|n_heads?|num_heads|\w*attention_heads", HEADS),
    (r"\w*mamba_n_heads|\w*mamba_num_heads|n_mamba_heads|linear_num_value_heads|linear_num_heads|index_n_heads", HEADS),
    (r"linear_num_key_heads", GROUPS),
    (r"qk_head_dim", 2 * HEAD_DIM),
    (r"\w*head_dim|d_kv|dim_head|rotary_dim|mamba_d_head|kv_channels", HEAD_DIM),
    (r"(\w+_)?(num_|n_)?(local_|routed_)?experts|moe_num_experts|\w*num_local_experts", EXPERTS),
    (r"n_group|num_expert_group|topk_group", 1),
    # The others have experts.
    (r"first_k_dense_replace|num_dense_layers", 1),
    (r"\w*lora_rank|time_step_rank|mamba_dt_rank|laurel_rank", 32),
    (r"\w*(intermediate_size(_mlp)?|ffn_dim|d_ff|dff|dim_ff|ffn_hidden_size|mlp_dim|n_inner)", INTERMEDIATE),
    (r"hidden_size_per_layer_input", HEAD_DIM),
    (r"(\w+_)?(hidden_size|d_model|n_embd|embed_dim|embedding_size|emb_dim|dim_model)|lru_width|mamba_d_ssm", HIDDEN),
    (r"word_embed_proj_dim|projection_dim|out_hidden_size|projector_hidden_size|output_dim|input_size", HIDDEN),
    (r"projector_(in|out)put_dim|vision_output_dim", HIDDEN),
    (r"state_size|ssm_state_size|mamba_d_state", HEAD_DIM),
    (r"n_groups|mamba_n_groups|mamba_ngroups", 1),
    (
        r"max_position_embeddings|n_positions|n_ctx|max_seq_len|\w*max_(source|target)_positions|model_max_length",
        POSITIONS,
    ),
    (r"image_size", 32),
    (r"patch_size", 8),
)
_COMPILED = tuple((re.compile(pattern), number) for pattern, number in _RULES)
_SPECIAL_TOKEN = re.compile(r"\w+_token_(id|index)")
_ROPE = {"rope_type": "default", "rope_theta": 1e4}
# Sparse attention of Qwen 4, which a config without these numbers lacks in part.
_QSA = {
    "indexer_n_heads": HEADS,
    "indexer_kv_heads": 1,
    "indexer_head_dim": HEAD_DIM,
    "indexer_budget": POSITIONS,
    "indexer_compress_ratio": 8,
}
# A type -> arguments of its config, where the rules give none that fit each other, or layers of odd widths.
EXCEPTIONS: dict[str, dict[str, Any]] = {
    "bamba": {"mamba_n_heads": 32, "mamba_d_head": 4},
    "chameleon": {"vocabulary_map": {"<image>": 4}},
    # With its own 1.0 attention looks at one token: dense weights rounded to NF4 change logits by 69 %, too.
    "cpmant": {"init_std": 0.1},
    "dbrx": {"attn_config": {"rope_theta": 10000.0, "clip_qkv": 8.0}},
    "deepseek_v2": {"num_experts_per_tok": EXPERTS},
    "emu3": {"vocabulary_map": {"<image>": 4}},
    "falcon_h1": {"mamba_n_heads": 32, "mamba_d_head": 2},
    # Its own tower is one of timm, which is not installed.
    "fast_vlm": {
        "vision_config": {
            "model_type": "siglip_vision_model",
            "hidden_size": HIDDEN,
            "intermediate_size": INTERMEDIATE,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": HEADS,
            "image_size": 32,
            "patch_size": 8,
        }
    },
    "gemma3n": {"text_config": {"num_kv_shared_layers": 0}},
    "gemma3n_text": {"num_kv_shared_layers": 0},
    "glm46v": {"text_config": {"rope_parameters": _ROPE | {"partial_rotary_factor": 0.5, "mrope_section": [2, 1, 1]}}},
    "glm4v": {"text_config": {"rope_parameters": _ROPE | {"partial_rotary_factor": 0.5, "mrope_section": [2, 1, 1]}}},
    "glmga": {"text_config": {"rope_parameters": _ROPE | {"partial_rotary_factor": 0.5, "mrope_section": [2, 1, 1]}}},
    "glm_ocr": {"text_config": {"rope_parameters": _ROPE | {"mrope_section": [2, 3, 3]}}},
    "cohere_compass": {"text_config": {"rope_parameters": {"full_attention": _ROPE}}},
    "cohere_compass_text": {"rope_parameters": {"full_attention": _ROPE}},
    "deepseek_ocr2": {"text_config": {"mlp_layer_types": ["dense", "sparse"], "num_experts_per_tok": EXPERTS}},
    "diffusion_gemma": {
        "text_config": {"num_experts": EXPERTS, "top_k_experts": EXPERTS, "moe_intermediate_size": INTERMEDIATE}
    },
    "dots1": {"n_routed_experts": EXPERTS, "n_shared_experts": 1, "num_experts_per_tok": EXPERTS},
    "dots3_note": {"audio_config": {"adapter_in_dim": HIDDEN}},
    "ernie4_5_vl_moe": {"text_config": {"rope_parameters": _ROPE | {"mrope_section": [3, 3, 2]}}},
    "granite4_vision": {
        "deepstack_layer_map": [[-2, 0], [-1, 1]],
        "downsample_rate": "1/2",
        "qformer_config": {"num_hidden_layers": 1, "cross_attention_frequency": 1},
        "spatial_target_layers": [0, 1],
    },
    "hunyuan_v1_moe": {"head_dim": HEAD_DIM, "num_experts": EXPERTS, "moe_topk": EXPERTS},
    "hunyuan_vl": {"text_config": {"head_dim": HEAD_DIM, "rope_parameters": _ROPE | {"mrope_section": [2, 2, 2, 2]}}},
    "mistral4": {"head_dim": 2 * HEAD_DIM, "qk_head_dim": 2 * HEAD_DIM},
    "qwen4_exp": {"text_config": _QSA},
    "qwen4_exp_text": _QSA,
    "reformer": {"is_decoder": True, "axial_pos_embds_dim": [16, 48], "axial_pos_shape": [8, 16]},
    "step3p7": {"text_config": {"sliding_window": POSITIONS}},
    "zamba2": {
        "num_hidden_layers": 4,
        "layers_block_type": ["linear_attention", "hybrid"] * 2,
        "attention_hidden_size": 2 * HIDDEN,
        "attention_head_dim": 2 * HEAD_DIM,
        "mamba_headdim": 4,
        "n_mamba_heads": 32,
    },
    "paligemma": {"text_config": {"num_key_value_heads": 1}},
    "paddleocr_vl": {"text_config": {"rope_parameters": _ROPE | {"mrope_section": [2, 3, 3]}}},
    "qwen2_5_omni_thinker": {"text_config": {"rope_parameters": _ROPE | {"mrope_section": [2, 3, 3]}}},
    "zaya": {"num_experts_per_tok": 1},
    # Sections of a head that transformers fills in where the config has none.
    "glm4v_moe": {
        "text_config": {"rope_parameters": _ROPE | {"partial_rotary_factor": 0.5, "mrope_section": [2, 1, 1]}}
    },
    "granitemoehybrid": {"mamba_n_heads": 32, "mamba_d_head": 4},
    "hunyuan_v1_dense": {"head_dim": HEAD_DIM},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"], "num_hidden_layers": 2},
    "mamba2": {"num_heads": 32, "head_dim": 4},
    # Its second block looks at images, which a text passes over.
    "mllama": {"text_config": {"num_hidden_layers": 3, "cross_attention_layers": [1]}},
    "ministral": {"head_dim": HEAD_DIM},
    "molmo2": {"adapter_config": {"vision_feature_layer": [1, 0], "vit_layers": [1, 0]}},
    "nemotron_h_omni": {"vision_config": {"video_temporal_patch_size": 2}},
    "xmod": {"default_language": "en_XX"},
    "nemotron": {"head_dim": HEAD_DIM, "num_key_value_heads": GROUPS},
    "longcat_flash": {"zero_expert_num": 2},
    "qwen2_5_vl": {"text_config": {"rope_parameters": _ROPE | {"mrope_section": [2, 3, 3]}}},
    "qwen2_vl": {"text_config": {"rope_parameters": _ROPE | {"mrope_section": [2, 3, 3]}}},
    # bitsandbytes' layers would be quantized once more as they run.
    "rwkv": {"rescale_every": 0},
    # Transformers that are shared by the blocks that have one.
    "zamba": {
        "num_hidden_layers": 4,
        "layers_block_type": ["linear_attention", "hybrid"] * 2,
        "attention_hidden_size": 2 * HIDDEN,
        "attention_head_dim": 2 * HEAD_DIM,
    },
}
# All experts are chosen, so that no router chooses others because of rounded inputs.
_CHOSEN = re.compile(r"num_experts_per_tok(en)?|moe_top_?k|moe_k|top_k_experts|num_selected_experts")


def small_model(model_type: str, *, dtype: Any, seed: int = 0) -> "PreTrainedModel":
    """Build a small random model of a type of transformers, by the class that takes most for it."""
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

    # Of a type that has both, published folders hold the one for images; its text alone is a type of its own.
    takes_images = model_type in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
    automatic = AutoModelForImageTextToText if takes_images else AutoModelForCausalLM
    torch.manual_seed(seed)
    model = automatic.from_config(small_config(model_type), dtype=dtype).eval()
    _scale_attention(model)
    return model


def _scale_attention(model: "PreTrainedModel") -> None:
    """Let norms scale the queries where attention does not (Gemma 4 and 3n), as those of trained models do.

    With norms of ones, scores deviate by the root of the head's size and attention looks at one token: rounding that
    changes weights by 9 % moves it to another one, and logits by 60 %, with dense weights of the same values too.
    """
    for module in model.modules():
        if getattr(module, "scaling", None) == 1.0 and hasattr(module, "q_norm"):
            module.q_norm.weight.data.fill_(module.q_norm.weight.numel() ** -0.5)


def small_config(model_type: str) -> "PreTrainedConfig":
    """Return a small config of a type of transformers."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    kind = CONFIG_MAPPING[model_type]
    exceptions = EXCEPTIONS.get(model_type, {})
    start = {key: value for key, value in exceptions.items() if key.startswith("=")}
    config = kind(**{key[1:]: value for key, value in start.items()})
    return kind(**_merged(_shrunk(config), {key: value for key, value in exceptions.items() if key not in start}))


def _merged(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested values with nested changes."""
    merged = dict(values)
    for key, value in changes.items():
        inner = merged.get(key)
        merged[key] = _merged(inner, value) if isinstance(value, dict) and isinstance(inner, dict) else value
    return merged


def _shrunk(config: Any) -> dict[str, Any]:
    """Return the arguments of a smaller config of the same class."""
    parts = {name: getattr(config, name, None) for name in config.sub_configs}
    values = {name: value for name, value in vars(config).items() if name not in parts and not name.startswith("_")}
    changed: dict[str, Any] = {name: _shrunk(part) for name, part in parts.items() if part is not None}
    for name, part in parts.items():
        if part is not None and "model_type" in vars(type(part)):
            changed[name]["model_type"] = part.model_type
    kept = _kept_layers(values)
    special = 0
    for name, value in values.items():
        if name in kept.lists:
            changed[name] = [_smaller_item(name, value[index]) for index in kept.layers]
        elif isinstance(value, int) and not isinstance(value, bool):
            special += _SPECIAL_TOKEN.fullmatch(name) is not None
            smaller = _smaller(name, value, VOCABULARY - special)
            # Others would no longer follow from these.
            changed |= {name: smaller} if smaller != value else {}
    ropes = {name: value for name, value in values.items() if isinstance(value, dict) and "mrope_section" in value}
    changed |= {name: {**rope, "mrope_section": _sections(rope)} for name, rope in ropes.items()}
    depth = _depth_name(values)
    if depth and kept.lists:
        changed[depth] = len(kept.layers)
    # As many heads for keys as for queries stay so.
    for keys in [name for name in changed if name.endswith("num_key_value_heads")]:
        queries = keys.replace("num_key_value_heads", "num_attention_heads")
        if values[keys] == values.get(queries):
            changed[keys] = changed.get(queries, values[queries])
    return changed


def _smaller(name: str, value: int, token: int) -> int:
    """Return what a number of a config becomes by its name; a special token without a rule becomes `token`."""
    if _CHOSEN.fullmatch(name):
        return EXPERTS
    new = next((number for pattern, number in _COMPILED if pattern.fullmatch(name)), None)
    if new is None and _SPECIAL_TOKEN.fullmatch(name):
        new = token
    return value if new is None else min(value, new)


def _sections(rope: Mapping[str, Any]) -> list[int]:
    """Return how many of the rotated pairs of a head stand for time, rows and columns: time the rest, rows 3 of 8."""
    pairs = int(HEAD_DIM * rope.get("partial_rotary_factor", 1.0)) // 2
    rows = 3 * pairs // 8
    return [pairs - 2 * rows, rows, rows]


def _smaller_item(name: str, value: Any) -> Any:
    """Return what an entry of a list becomes, a number for each layer or a kind: Gemma 3n lists the widths of MLPs."""
    return _smaller(name, value, VOCABULARY) if isinstance(value, int) and not isinstance(value, bool) else value


class _Kept:
    def __init__(self, layers: tuple[int, ...], lists: frozenset[str]) -> None:
        self.layers, self.lists = layers, lists


def _depth_name(values: Mapping[str, Any]) -> str | None:
    return next(
        (name for name in ("num_hidden_layers", "n_layer", "num_layers", "n_layers", "depth") if name in values), None
    )


def _kept_layers(values: Mapping[str, Any]) -> _Kept:
    """Return the layers of which each kind has one, in order, and the values that are lists with an entry for each."""
    depth = _depth_name(values)
    count = values[depth] if depth else 0
    lists = {
        name: value
        for name, value in values.items()
        if isinstance(value, list | tuple) and len(value) == count and count > 0 and name != "id2label"
    }
    if not lists:
        return _Kept((), frozenset())
    first: dict[tuple[str, ...], int] = {}
    for index in range(count):
        first.setdefault(tuple(repr(value[index]) for value in lists.values()), index)
    layers = sorted(first.values())[:MAX_LAYERS]
    layers += [index for index in range(count) if index not in layers][: max(0, LAYERS - len(layers))]
    return _Kept(tuple(sorted(layers)), frozenset(lists))


def causal_types() -> Iterator[str]:
    """Yield all types of transformers' mapping of causal language models."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    yield from sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def multimodal_types() -> Iterator[str]:
    """Yield all other types of transformers' mapping of models that read text and images."""
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    )

    yield from sorted(set(MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES) - set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES))
