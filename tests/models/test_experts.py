"""Experts as linear layers of their own compute what transformers computes from its large tensors."""

from itertools import product
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from qtoolkit.models.experts import ExpertLayout, ExpertList, find_experts, modules_apart, replace_experts
from qtoolkit.models.structure import modules_with_weights
from scripts.small_models import small_model

COMMON = {
    "vocab_size": 128,
    "hidden_size": 32,
    "intermediate_size": 48,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_local_experts": 5,
    "num_experts": 5,
    "num_experts_per_tok": 2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
NAMES = {
    "mixtral": ("w1", "w3", "w2"),
    "qwen2_moe": ("gate_proj", "up_proj", "down_proj"),
    "qwen3_moe": ("gate_proj", "up_proj", "down_proj"),
}
every_mixture = pytest.mark.parametrize("kind", NAMES)


LATENT = {"q_lora_rank": 16, "kv_lora_rank": 8, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 8}
# What else the small models of these types need, and the names of their experts' layers.
OTHERS: dict[str, tuple[dict[str, Any], set[str]]] = {
    "gpt_oss": ({}, {"gate_proj", "up_proj", "down_proj"}),
    "granitemoe": ({}, {"w1", "w3", "w2"}),
    "granitemoeshared": ({}, {"w1", "w3", "w2"}),
    "granitemoehybrid": (
        {"mamba_n_heads": 8, "mamba_d_head": 8, "layer_types": ["mamba", "attention"]},
        {"w1", "w3", "w2"},
    ),
    "llama4_text": ({}, {"gate_proj", "up_proj", "down_proj"}),
    "jetmoe": ({}, {""}),
    "deepseek_v4": ({}, {"w1", "w3", "w2"}),
    "longcat_flash": (
        {**LATENT, "expert_ffn_hidden_size": 16, "ffn_hidden_size": 48, "n_routed_experts": 5, "zero_expert_num": 2}
        | {"num_hidden_layers": 4, "moe_topk": 3, "num_key_value_heads": 4, "head_dim": 8},
        {"gate_proj", "up_proj", "down_proj"},
    ),
    "nemotron_h": ({"n_routed_experts": 5}, {"up_proj", "down_proj"}),
    "dbrx": (
        {
            "d_model": 32,
            "n_heads": 4,
            "n_layers": 2,
            "vocab_size": 128,
            "max_seq_len": 64,
            "ffn_config": {"ffn_hidden_size": 48, "moe_num_experts": 5, "moe_top_k": 2},
            "attn_config": {"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 10_000.0},
        },
        {"w1", "v1", "w2"},
    ),
}
every_other = pytest.mark.parametrize("kind", OTHERS)


def layout_of(kind: str, layer: int = 0) -> ExpertLayout:
    return find_experts(mixture(kind))[f"model.layers.{layer}.mlp.experts"]


def other(kind: str) -> PreTrainedModel:
    """A random model whose experts are as different as those of a trained one, biases included."""
    own, _ = OTHERS[kind]
    config = CONFIG_MAPPING[kind](**(own if kind == "dbrx" else {**COMMON, **own}))
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, experts_implementation="eager")
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1 or "bias" in name:
            nn.init.normal_(parameter, std=0.2)
    return model.eval()  # type: ignore[no-any-return]


def mixture(kind: str, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    torch.manual_seed(0)
    config = CONFIG_MAPPING[kind](**COMMON)
    model = AutoModelForCausalLM.from_config(config, dtype=dtype, experts_implementation="eager")
    return model.eval()  # type: ignore[no-any-return]


def routing(tokens: int, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    """Two different experts a token, of the first four of five."""
    index = torch.stack([torch.randperm(4)[:2] for _ in range(tokens)])
    return index, torch.rand(tokens, 2).to(dtype)


@every_mixture
def test_found_with_the_names_of_checkpoints(kind: str) -> None:
    found = find_experts(mixture(kind))
    assert list(found) == [f"model.layers.{layer}.mlp.experts" for layer in range(2)]
    for layout in found.values():
        assert tuple(linear.name for linear in layout.linears) == NAMES[kind]
        assert layout.is_apart


@every_mixture
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("tokens", [1, 17])
def test_outputs_are_those_of_the_fused_module(kind: str, dtype: torch.dtype, tokens: int) -> None:
    fused = mixture(kind, dtype).get_submodule("model.layers.0.mlp.experts")
    experts = ExpertList.of(fused, layout_of(kind))
    x = torch.randn(tokens, 32, dtype=dtype)
    index, weights = routing(tokens, dtype)
    with torch.no_grad():
        expected, found = fused(x, index, weights), experts(x, index, weights)
    assert found.dtype == dtype
    torch.testing.assert_close(found, expected, rtol=1e-6 if dtype == torch.float32 else 1e-2, atol=1e-6)


def test_what_stands_around_experts_is_not_filled_with_first_values_again() -> None:
    # Transformers draws the experts' values here from the module around them.
    model = small_model("qwen3_omni_moe_thinker", dtype=torch.float32)
    # As where only some weights come from a file.
    for module in model.modules():
        module._is_hf_initialized = False
    replace_experts(model)
    model.initialize_weights()
    assert any(isinstance(module, ExpertList) for module in model.modules())


@every_mixture
def test_outputs_are_those_of_a_loop_over_tokens(kind: str) -> None:
    fused = mixture(kind, torch.float64).get_submodule("model.layers.1.mlp.experts")
    experts = ExpertList.of(fused, layout_of(kind))
    x = torch.randn(9, 32, dtype=torch.float64)
    index, weights = routing(9, torch.float64)
    expected = torch.zeros_like(x)
    for token, place in product(range(9), range(2)):
        expert = int(index[token, place])
        gate, up = (fused.gate_up_proj[expert] @ x[token]).split(len(fused.gate_up_proj[expert]) // 2)
        inner = gate / (1 + torch.exp(-gate)) * up  # SiLU, the default of all three
        expected[token] += weights[token, place] * (fused.down_proj[expert] @ inner)
    torch.testing.assert_close(experts(x, index, weights), expected, rtol=1e-12, atol=1e-14)


@every_mixture
def test_a_whole_model_gives_the_same_logits(kind: str) -> None:
    model = mixture(kind)
    tokens = torch.arange(3, 35).reshape(2, 16)
    with torch.no_grad():
        expected = model(tokens).logits
        replace_experts(model)
        found = model(tokens).logits
    assert not find_experts(model)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@every_mixture
def test_children_are_named_as_in_checkpoints(kind: str) -> None:
    fused = mixture(kind).get_submodule("model.layers.0.mlp.experts")
    state = ExpertList.of(fused, layout_of(kind)).state_dict()
    assert set(state) == {f"{expert}.{layer}.weight" for expert in range(5) for layer in NAMES[kind]}
    gate, up, down = (state[f"3.{layer}.weight"] for layer in NAMES[kind])
    assert torch.equal(torch.cat([gate, up]), fused.gate_up_proj[3])
    assert torch.equal(down, fused.down_proj[3])


@every_mixture
def test_modules_are_listed_as_they_would_be_replaced(kind: str) -> None:
    model = mixture(kind, torch.bfloat16)
    listed = list(modules_apart(model))
    replace_experts(model)
    replaced = list(modules_with_weights(model))
    assert [name for name, _ in listed] == [name for name, _ in replaced]
    for (name, found), (_, expected) in zip(listed, replaced, strict=True):
        assert type(found) is type(expected), name
        assert [(part, value.shape, value.dtype) for part, value in found.named_parameters()] == [
            (part, value.shape, value.dtype) for part, value in expected.named_parameters()
        ]


def test_no_weight_is_copied() -> None:
    fused = mixture("mixtral").get_submodule("model.layers.0.mlp.experts")
    experts = ExpertList.of(fused, layout_of("mixtral"))
    owners = {fused.gate_up_proj.untyped_storage().data_ptr(), fused.down_proj.untyped_storage().data_ptr()}
    assert {weight.untyped_storage().data_ptr() for weight in experts.parameters()} == owners


def test_a_model_without_values() -> None:
    with torch.device("meta"):
        model = mixture("mixtral")
    replace_experts(model)
    experts = model.get_submodule("model.layers.0.mlp.experts")
    assert all(parameter.is_meta for parameter in experts.parameters())


def test_a_layer_that_was_replaced_is_used() -> None:
    experts = ExpertList.of(mixture("mixtral").get_submodule("model.layers.0.mlp.experts"), layout_of("mixtral"))
    x, (index, weights) = torch.randn(4, 32), routing(4)
    for expert in experts:
        expert.w2 = nn.Linear(48, 32, bias=False)
        nn.init.zeros_(expert.w2.weight)
    assert not experts(x, index, weights).any()


def test_hooks_see_the_inputs_of_an_expert() -> None:
    experts = ExpertList.of(mixture("mixtral").get_submodule("model.layers.0.mlp.experts"), layout_of("mixtral"))
    seen: list[torch.Tensor] = []
    experts[2].get_submodule("w1").register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    x, (index, weights) = torch.randn(12, 32), routing(12)
    experts(x, index, weights)
    chosen = (index == 2).any(dim=1)
    # The order of an expert's tokens is its own affair.
    assert sorted(seen[0].tolist()) == sorted(x[chosen].tolist())


@every_other
def test_other_layouts_give_the_logits_of_transformers_own_modules(kind: str) -> None:
    """In one tensor or many, transposed, interleaved, with biases, without a gate, with one of the module's own."""
    model = other(kind)
    experts = find_experts(model)
    assert experts
    assert {linear.name for layout in experts.values() for linear in layout.linears} == OTHERS[kind][1]
    tokens = torch.arange(3, 35).reshape(2, 16)
    listed = [(name, tuple(module.weight.shape)) for name, module in modules_apart(model) if type(module) is nn.Linear]
    with torch.no_grad():
        expected = model(tokens, use_cache=False).logits
        replace_experts(model)
        found = model(tokens, use_cache=False).logits
    assert not find_experts(model)
    replaced = [(name, tuple(one.weight.shape)) for name, one in model.named_modules() if type(one) is nn.Linear]
    assert sorted(listed) == sorted(replaced)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6 * float(expected.abs().max()))


def test_experts_that_stay_whole_are_those_of_which_none_is_quantized() -> None:
    name = "model.layers.1.mlp.experts"
    assert set(find_experts(other("gpt_oss"), [f"{name}.3.up_proj"])) == {name}
    # Files keep these one by one, so that all are taken apart.
    assert len(find_experts(mixture("mixtral"), [])) == 2


def test_nothing_is_found_where_there_are_no_experts() -> None:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(CONFIG_MAPPING["llama"](**COMMON))
    assert find_experts(model) == {}


def test_experts_that_share_tensors_stay_as_they_are() -> None:
    """As those of DiffusionGemma's encoder and decoder, which transformers ties by their names."""
    model = small_model("mixtral", dtype=torch.bfloat16)
    first, second = find_experts(model)
    model.all_tied_weights_keys = {f"{second}.down_proj": f"{first}.down_proj"}
    assert find_experts(model) == {}
    assert not any(".experts.0." in name for name, _ in modules_apart(model))
