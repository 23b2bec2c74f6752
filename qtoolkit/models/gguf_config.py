"""Make the config of a model from the header of its `.gguf` file, for the models of which such files are written here.

transformers has a table of its own, which leaves out the widths of experts, the size of heads of Qwen3, softcapping,
biases, and how a rope is scaled; and it has none for Gemma 1, Granite, OLMo 2, SmolLM3 and Mixtral.
"""

from collections.abc import Callable, Mapping
from math import isclose, isfinite, log
from typing import TYPE_CHECKING, Any

from qtoolkit.checkpoints.gguf_architectures import ARCHITECTURES
from qtoolkit.checkpoints.gguf_header import GgufHeader
from qtoolkit.checkpoints.gguf_options import COUNTS, LAYERS_OF_27B, SCALES, llama3_factors

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

Shapes = Mapping[str, tuple[int, ...]]
# Reads a vector of the file by its name.
ReadVector = Callable[[str], list[float]]

# llama.cpp's name of an architecture -> transformers' `model_type`, of those that have one alone.
_MODEL_TYPES = {ARCHITECTURES[kind].name: kind for kind in ARCHITECTURES if kind not in ("mistral", "mixtral")}
_NEEDED = ("num_hidden_layers", "hidden_size", "num_attention_heads")
# What GPT-2's config calls otherwise.
_GPT2_NAMES = {
    "hidden_size": "n_embd",
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
    "intermediate_size": "n_inner",
    "max_position_embeddings": "n_positions",
}
_TOKENS = {"bos_token_id": "bos", "eos_token_id": "eos", "pad_token_id": "padding"}
_ABOVE_0 = ("context_length", "embedding_length", "attention.head_count", "rope.freq_base", "rope.freq_base_swa")
# 0 is a number there, or none.
_FROM_0 = (
    "attention.layer_norm_epsilon",
    "attention.layer_norm_rms_epsilon",
    "rope.dimension_count",
    "rope.scale_linear",
    "rope.scaling.factor",
)
# llama.cpp's own, for a file that does not say it.
_ROPE_THETA = 10_000.0
# What models of Llama 3 have; the positions they were trained on are found by trying.
_LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
_TRAINED_ON = tuple(2**power for power in range(5, 21))


def model_type_of(header: GgufHeader) -> str | None:
    """Return transformers' `model_type` of a file's model; None for one of which no files are written here."""
    values = header.config
    sizes = (values.get(name) for name in ("num_attention_heads", "num_key_value_heads", "intermediate_size"))
    # OLMo 3 has the same name, and a window; models whose layers differ have lists of sizes.
    if any(isinstance(size, list) for size in sizes) or (
        header.architecture == "olmo2" and "attention.sliding_window" in values
    ):
        return None
    if header.architecture == "llama" and values.get("num_experts"):
        return "mixtral"
    return _MODEL_TYPES.get(header.architecture)


def config_of_gguf(header: GgufHeader, model_type: str, shapes: Shapes, read: ReadVector) -> "PreTrainedConfig":
    """Return the config of a model.

    Args:
        header: of its file, or of the first one of several.
        model_type: as `model_type_of` returns it.
        shapes: of the tensors of all files, by llama.cpp's names.
        read: returns a vector by its name.

    Raises:
        Exception: whatever transformers raises on values that no model has.
    """
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    stored = {key.removeprefix(f"{header.architecture}."): value for key, value in header.values.items()}
    _refuse_impossible(stored)
    values = {option: stored[key] for option, key in COUNTS.items() if key in stored}
    values |= {option: _decimal(stored[key]) for option, key in SCALES.items() if key in stored}
    lacking = next((COUNTS[option] for option in _NEEDED if option not in values), None)
    if lacking is not None:
        raise ValueError(f"it has no {header.architecture}.{lacking}")
    values |= _of_shapes(model_type, shapes)
    values |= {name: stored.get(f"tokenizer.ggml.{key}_token_id") for name, key in _TOKENS.items()}
    experts = "num_local_experts" if model_type == "mixtral" else "num_experts"
    values |= {experts: stored["expert_count"]} if stored.get("expert_count") else {}
    usual = values["hidden_size"] // values["num_attention_heads"]
    values.setdefault("head_dim", usual)
    if ropes := _ropes(header.architecture, stored, values, shapes, read):
        values["rope_parameters"] = ropes
    values |= _of_kind(model_type, values, stored)
    if model_type == "gpt2":
        values = {_GPT2_NAMES.get(name, name): value for name, value in values.items()}
    kind = CONFIG_MAPPING[model_type]
    # The size of heads is an option of some whose configs mostly leave it out.
    known = {
        name: value
        for name, value in values.items()
        if hasattr(kind, name) or name in kind.attribute_map or (name == "head_dim" and value != usual)
    }
    return kind(**known)


def _refuse_impossible(stored: Mapping[str, Any]) -> None:
    """Refuse numbers with which nothing can be computed; an error names the first.

    Args:
        stored: the values of a header, by their names without the architecture's.
    """
    for key, number in stored.items():
        is_none = isinstance(number, float) and not isfinite(number)
        if is_none or (key in _ABOVE_0 and number <= 0) or (key in _FROM_0 and number < 0):
            raise ValueError(f"{key} is {number}")


def _decimal(number: float) -> float:
    """Return the shortest decimal of a float32, which is what a config said: 1e-06, and not 9.999999974752427e-07."""
    import numpy as np

    return float(str(np.float32(number)))


def _of_shapes(model_type: str, shapes: Shapes) -> dict[str, Any]:
    """Return what the tensors say: sizes that old files name nowhere, and which biases and outputs there are."""
    rows = {
        "vocab_size": ("token_embd.weight", 0),
        "max_position_embeddings": ("position_embd.weight", 0),
        "moe_intermediate_size": ("blk.0.ffn_gate_exps.weight", 1),
        "shared_expert_intermediate_size": ("blk.0.ffn_gate_shexp.weight", 0),
    }
    sizes = {option: shapes[name][axis] for option, (name, axis) in rows.items() if len(shapes.get(name, ())) > axis}
    return sizes | {
        "tie_word_embeddings": "output.weight" not in shapes,
        "attention_bias": "blk.0.attn_q.bias" in shapes,
        "mlp_bias": "blk.0.ffn_up.bias" in shapes,
        "use_bias": "blk.0.attn_output.bias" in shapes,
    }


def _of_kind(model_type: str, values: Mapping[str, Any], stored: Mapping[str, Any]) -> dict[str, Any]:
    """Return what llama.cpp computes for one kind of model without a value in the header."""
    if model_type in ("qwen2_moe", "qwen3_moe"):
        return {"norm_topk_prob": model_type == "qwen3_moe"}
    if model_type in ("gemma2", "gemma3_text"):
        is_largest = values["num_hidden_layers"] == LAYERS_OF_27B[model_type.removesuffix("_text")]
        scalar = values["hidden_size"] // values["num_attention_heads"] if is_largest else values["head_dim"]
        return {"query_pre_attn_scalar": scalar}
    if model_type == "phi3":
        original = stored.get("rope.scaling.original_context_length") or values["max_position_embeddings"]
        return {"original_max_position_embeddings": original, "sliding_window": values.get("sliding_window") or None}
    return {}


def _ropes(
    name: str, stored: Mapping[str, Any], values: Mapping[str, Any], shapes: Shapes, read: ReadVector
) -> dict[str, Any]:
    """Return `rope_parameters`: of Gemma 3, one for each kind of layer; none for GPT-2."""
    if name == "gpt2":
        return {}
    rope = {"rope_theta": _decimal(stored.get("rope.freq_base", _ROPE_THETA))}
    dims = stored.get("rope.dimension_count") or values["head_dim"]
    if dims > values["head_dim"]:
        raise ValueError(f"rope.dimension_count is {dims}, and a head has {values['head_dim']} dimensions")
    if dims != values["head_dim"]:
        rope["partial_rotary_factor"] = dims / values["head_dim"]
    rope |= _scaling(stored, rope["rope_theta"], dims, shapes, read)
    if name != "gemma3":
        return rope
    local = {"rope_type": "default", "rope_theta": _decimal(stored.get("rope.freq_base_swa", _ROPE_THETA))}
    return {"full_attention": rope, "sliding_attention": local}


def _scaling(stored: Mapping[str, Any], theta: float, dims: int, shapes: Shapes, read: ReadVector) -> dict[str, Any]:
    """Return how a rope is scaled: by values of the header, or by factors that are tensors."""
    vectors = (name for name, shape in shapes.items() if name.startswith("rope_f") and shape == (dims // 2,))
    # A file of which the header alone was downloaded has zeros instead.
    factors = {name: vector for name in vectors if all(vector := read(name))}
    if "rope_freqs.weight" in factors:
        return _llama3(factors["rope_freqs.weight"], theta, dims)
    scaling = {key.rpartition(".")[2]: value for key, value in stored.items() if key.startswith("rope.scaling.")}
    original = scaling.get("original_context_length")
    if len(factors) == 2:
        return {
            "rope_type": "longrope",
            "long_factor": factors["rope_factors_long.weight"],
            "short_factor": factors["rope_factors_short.weight"],
            "attention_factor": scaling.get("attn_factor"),
            "original_max_position_embeddings": original,
        }
    # As llama.cpp reads older headers, src/llama-model.cpp, `load_hparams`: the type is linear, the factor may be named
    # otherwise, and 0 is none.
    kind = scaling.get("type", "linear")
    factor = scaling.get("factor", stored.get("rope.scale_linear", 0))
    if kind not in ("linear", "yarn") or not factor:
        return {"rope_type": "default"}
    rope = {"rope_type": kind, "factor": factor}
    if kind == "yarn":
        rope["original_max_position_embeddings"] = original or stored.get("context_length")
        rope |= {key: scaling[f"yarn_{key}"] for key in ("beta_fast", "beta_slow") if f"yarn_{key}" in scaling}
        if "attn_factor" in scaling:
            # llama.cpp multiplies with its own, see `qtoolkit.formats.gguf.ropes`.
            rope["attention_factor"] = scaling["attn_factor"] * (0.1 * log(rope["factor"]) + 1)
    return rope


def _llama3(factors: list[float], theta: float, dims: int) -> dict[str, Any]:
    """Return the options that give these factors; those of a plain rope where none do."""
    for original in _TRAINED_ON:
        rope = {**_LLAMA3, "factor": max(factors), "rope_theta": theta, "original_max_position_embeddings": original}
        made = llama3_factors(rope, dims)
        if all(isclose(one, other, rel_tol=1e-4) for one, other in zip(made, factors, strict=True)):
            return {**rope, "rope_type": "llama3"}
    return {"rope_type": "default"}
