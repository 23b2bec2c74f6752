"""Experts as linear layers of their own compute what transformers computes from its two tensors."""

from itertools import product

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from qtoolkit.models.experts import ExpertList, find_experts, modules_apart, replace_experts
from qtoolkit.models.structure import modules_with_weights

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
    assert find_experts(mixture(kind)) == {f"model.layers.{layer}.mlp.experts": NAMES[kind] for layer in range(2)}


@every_mixture
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("tokens", [1, 17])
def test_outputs_are_those_of_the_fused_module(kind: str, dtype: torch.dtype, tokens: int) -> None:
    fused = mixture(kind, dtype).get_submodule("model.layers.0.mlp.experts")
    experts = ExpertList.of(fused, NAMES[kind])
    x = torch.randn(tokens, 32, dtype=dtype)
    index, weights = routing(tokens, dtype)
    with torch.no_grad():
        expected, found = fused(x, index, weights), experts(x, index, weights)
    assert found.dtype == dtype
    torch.testing.assert_close(found, expected, rtol=1e-6 if dtype == torch.float32 else 1e-2, atol=1e-6)


@every_mixture
def test_outputs_are_those_of_a_loop_over_tokens(kind: str) -> None:
    fused = mixture(kind, torch.float64).get_submodule("model.layers.1.mlp.experts")
    experts = ExpertList.of(fused, NAMES[kind])
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
    state = ExpertList.of(fused, NAMES[kind]).state_dict()
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
    experts = ExpertList.of(fused, NAMES["mixtral"])
    owners = {fused.gate_up_proj.untyped_storage().data_ptr(), fused.down_proj.untyped_storage().data_ptr()}
    assert {weight.untyped_storage().data_ptr() for weight in experts.parameters()} == owners


def test_a_model_without_values() -> None:
    with torch.device("meta"):
        model = mixture("mixtral")
    replace_experts(model)
    experts = model.get_submodule("model.layers.0.mlp.experts")
    assert all(parameter.is_meta for parameter in experts.parameters())


def test_a_layer_that_was_replaced_is_used() -> None:
    experts = ExpertList.of(mixture("mixtral").get_submodule("model.layers.0.mlp.experts"), NAMES["mixtral"])
    x, (index, weights) = torch.randn(4, 32), routing(4)
    for expert in experts:
        expert.w2 = nn.Linear(48, 32, bias=False)
        nn.init.zeros_(expert.w2.weight)
    assert not experts(x, index, weights).any()


def test_hooks_see_the_inputs_of_an_expert() -> None:
    experts = ExpertList.of(mixture("mixtral").get_submodule("model.layers.0.mlp.experts"), NAMES["mixtral"])
    seen: list[torch.Tensor] = []
    experts[2].get_submodule("w1").register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    x, (index, weights) = torch.randn(12, 32), routing(12)
    experts(x, index, weights)
    chosen = (index == 2).any(dim=1)
    # The order of an expert's tokens is its own affair.
    assert sorted(seen[0].tolist()) == sorted(x[chosen].tolist())


@pytest.mark.parametrize("kind", ["llama", "gpt_oss", "granitemoe"])
def test_nothing_is_found_where_nothing_fits(kind: str) -> None:
    """No mixture; experts with biases and another gate; experts that checkpoints keep in one tensor."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(CONFIG_MAPPING[kind](**COMMON))
    assert find_experts(model) == {}
