"""Models that llama.cpp would compute otherwise are refused in one line, before any weight is read."""

from typing import Any

import pytest
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from qtoolkit.errors import UnsupportedModelError
from qtoolkit.formats.gguf.file_plan import plan_file
from tests.formats.gguf.small_models import SMALL

ROPE = {"rope_theta": 1e4, "factor": 2.0, "original_max_position_embeddings": 32}
YARN = ROPE | {"rope_type": "yarn"}
LLAMA3 = ROPE | {"rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LONGROPE = ROPE | {"rope_type": "longrope", "long_factor": [1.0] * 8, "short_factor": [1.0] * 8}
REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("llama", {"hidden_act": "gelu"}, "llama with silu, not gelu"),
    ("llama", {"rope_parameters": ROPE | {"rope_type": "dynamic"}}, "llama with no rope of the type 'dynamic'"),
    ("llama", {"rope_parameters": LONGROPE}, "llama with no rope of the type 'longrope'"),
    ("llama", {"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5}}, "a rope of each whole head"),
    ("qwen2", {"rope_parameters": LLAMA3}, "qwen2 with no rope of the type 'llama3'"),
    ("qwen2, yarn", {"rope_parameters": YARN | {"beta_slow": 2}}, "yarn with beta_slow 1, not 2"),
    ("olmo2", {"num_attention_heads": 3, "num_key_value_heads": 3}, "heads that make up its width, 64"),
    ("gemma", {"tie_word_embeddings": False}, "gemma with the output tied to the token embedding"),
    ("gemma2", {"tie_word_embeddings": False}, "gemma2 with the output tied"),
    ("gemma2", {"query_pre_attn_scalar": 64}, "queries over the root of 32, not of 64"),
    ("gemma2", {"attn_logit_softcapping": None}, "gemma2 with softcapping of attention and logits"),
    ("gemma2", {"layer_types": ["full_attention"] * 2}, "gemma2 with full attention in each second layer"),
    ("gemma3", {"layer_types": ["full_attention"] * 6}, "gemma3 with full attention in each sixth layer"),
    ("gemma3", {"attn_logit_softcapping": 50.0}, "gemma3 without softcapping of attention"),
    ("gemma3", {"use_bidirectional_attention": True}, "gemma3 with attention to what comes before"),
    ("qwen2_moe", {"tie_word_embeddings": True}, "qwen2moe with an output of its own"),
    ("qwen2_moe", {"norm_topk_prob": True}, "weights of its experts that do not sum to one"),
    ("qwen3_moe", {"norm_topk_prob": False}, "weights of its experts that sum to one"),
    ("qwen3_moe", {"mlp_only_layers": [0]}, "experts in every layer"),
    ("smollm3", {"no_rope_layers": [1, 0, 1, 1]}, "smollm3 with no rope in each fourth layer"),
    ("starcoder2", {"use_bias": False}, "starcoder2 with biases"),
    ("gpt2", {"activation_function": "relu"}, "gpt2 with gelu_pytorch_tanh, not relu"),
    ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "gpt2 with attention scaled by the root"),
    ("gpt2", {"add_cross_attention": True}, "gpt2 without cross-attention"),
    ("phi3", {"rope_parameters": YARN}, "phi3 with a plain rope or longrope, not 'yarn'"),
    (
        "phi3",
        {"rope_parameters": LONGROPE | {"partial_rotary_factor": 0.5}},
        "a long_factor for each frequency, 4, not 8",
    ),
]


@pytest.mark.parametrize(("title", "changes", "why"), REFUSED)
def test_an_option_that_llama_cpp_computes_otherwise_is_refused(title: str, changes: dict[str, Any], why: str) -> None:
    """The line tells what llama.cpp computes."""
    config = config_of(title)
    for option, value in changes.items():
        setattr(config, option, value)
    with pytest.raises(UnsupportedModelError, match=f"llama.cpp computes .*{why}"):
        plan(config, {})


def test_an_architecture_that_is_not_written_is_refused() -> None:
    """With those that are."""
    with pytest.raises(
        UnsupportedModelError, match=r"of the architecture 'bloom': llama, mistral, mixtral.* are; llama"
    ):
        plan(CONFIG_MAPPING["bloom"](), {})


@pytest.mark.parametrize(
    ("title", "name"),
    [
        ("llama", "model.layers.0.mlp.router.weight"),
        ("llama", "model.layers.0.mlp.experts.gate_up_proj"),
        ("qwen3", "model.layers.0.self_attn.o_proj.bias"),
        ("mixtral", "model.layers.0.mlp.experts.0.norm.weight"),
        ("qwen3_moe", "model.layers.0.mlp.experts.gate_proj.bias"),
        ("gpt2", "transformer.h.0.attn.q_attn.weight"),
    ],
)
def test_a_tensor_that_llama_cpp_lacks_is_refused(title: str, name: str) -> None:
    """It is not left out without a word; llama.cpp would not open a file with a bias that it does not know."""
    with pytest.raises(UnsupportedModelError, match=f"has no tensor '{name}'"):
        plan(config_of(title), {name: (4, 64)})


EXPERT = "model.layers.0.mlp.experts.{}.down_proj.weight"
STACK = "model.layers.0.mlp.experts.down_proj"


@pytest.mark.parametrize(
    ("shapes", "why"),
    [
        (
            {EXPERT.format(number): (64, 32) for number in (0, 1, 3)},
            "4 experts by the config, and the checkpoint 3;.* 2",
        ),
        (
            {EXPERT.format(number): (64, 32) for number in range(5)},
            "4 experts by the config, and the checkpoint 5;.* 4",
        ),
        ({EXPERT.format(number): (64, 32 + number // 3) for number in range(4)}, r"has the shape \(64, 33\), and"),
        ({STACK: (3, 64, 32)}, "has 3 experts, and the config 4"),
        ({STACK: (4, 64, 32), f"{STACK}.weight": (4, 64, 32)}, "are one tensor"),
    ],
)
def test_experts_that_do_not_match_the_config_are_refused(shapes: dict[str, tuple[int, ...]], why: str) -> None:
    """One that is missing, one too many, and one of another shape."""
    with pytest.raises(UnsupportedModelError, match=why):
        plan(config_of("qwen3_moe"), shapes)


def config_of(title: str) -> Any:
    """The config of a small model."""
    kind, settings = SMALL[title]
    return CONFIG_MAPPING[kind](**settings)


def plan(config: Any, shapes: dict[str, tuple[int, ...]]) -> Any:
    """Plan a file of a model of which some tensors are known."""
    output = {} if config.tie_word_embeddings else {"lm_head.weight": (96, 64)}
    return plan_file(config, shapes | output, None, "F16", {})
