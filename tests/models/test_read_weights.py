"""Layers whose weight a model reads instead of calling them are left as they are, by every method."""

from pathlib import Path

import pytest
import torch
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

import qtoolkit as qt
from qtoolkit.models import read_weights
from qtoolkit.models.from_memory import open_loaded
from qtoolkit.models.read_weights import layers_with_read_weights
from scripts.small_models import small_model
from tests.sample_models import random_model

READ = {f"backbone.layers.{index}.mixer.dt_proj" for index in range(2)}
TOKENS = torch.arange(3, 20)[None]


def test_what_mamba_multiplies_with_by_itself_is_found() -> None:
    skeleton = open_loaded(random_model("mamba"), None).skeleton
    linear = {name: type(module) for name, module in skeleton.named_modules()}
    # The output head's type is asked for, too.
    assert layers_with_read_weights(skeleton) == READ | {"lm_head"}
    # Watching leaves nothing behind.
    assert {name: type(module) for name, module in skeleton.named_modules()} == linear


def test_what_is_called_once_transformers_has_marked_the_config_is_told_apart() -> None:
    skeleton = open_loaded(small_model("falcon_mamba", dtype=torch.bfloat16), None).skeleton
    assert layers_with_read_weights(skeleton) >= READ
    assert not layers_with_read_weights(skeleton, marked=True) & READ
    assert not hasattr(skeleton.config, "_is_quantized")


def test_a_weight_whose_type_is_asked_for_is_taken_where_layers_have_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    skeleton = open_loaded(small_model("hunyuan_v1_moe", dtype=torch.bfloat16), None).skeleton
    routers = {f"model.layers.{index}.mlp.gate.wg" for index in range(2)}
    assert layers_with_read_weights(skeleton) == routers
    assert layers_with_read_weights(skeleton, marked=True) == frozenset()
    # What reads its numbers too has nothing to put in their place.
    gate = skeleton.get_submodule("model.layers.1.mlp.gate")
    plain = gate.forward
    monkeypatch.setattr(gate, "forward", lambda x: (gate.wg.weight.sum(), plain(x))[1])
    assert layers_with_read_weights(skeleton, marked=True) == routers


def test_inputs_that_would_be_given_the_type_of_codes_are_seen() -> None:
    skeleton = open_loaded(random_model("mamba"), None).skeleton
    # What is multiplied with the layer's own weight stays, and so does the head, whose inputs take its weight's type.
    assert layers_with_read_weights(skeleton, marked=True) == READ | {"lm_head"}


def test_a_model_that_reads_none_is_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    skeleton = open_loaded(random_model("llama"), None).skeleton
    monkeypatch.setattr(read_weights, "_watched", None)
    assert layers_with_read_weights(skeleton) == frozenset()


def test_what_is_read_counts_where_the_model_does_not_run_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    skeleton = open_loaded(random_model("mamba"), None).skeleton
    monkeypatch.setattr(skeleton.get_submodule("backbone.norm_f"), "forward", None)
    # What the source says of those that the run did not come to.
    assert layers_with_read_weights(skeleton) == READ | {"lm_head"}


def test_the_source_tells_of_layers_that_the_run_does_not_come_to(monkeypatch: pytest.MonkeyPatch) -> None:
    skeleton = open_loaded(random_model("mamba"), None).skeleton
    # As where a mask needs values. The source reads more of them, in ways that the run does not take.
    monkeypatch.setattr(skeleton.get_submodule("backbone.layers.0"), "forward", None)
    assert layers_with_read_weights(skeleton) > READ


@pytest.mark.parametrize(("config", "taken"), [(qt.AbsMax(), set()), (qt.Int8(), READ)], ids=["absmax", "int8"])
def test_what_transformers_alone_calls_is_taken_where_it_alone_reads(
    config: qt.AbsMax | qt.Int8, taken: set[str]
) -> None:
    plan = qt.plan(small_model("falcon_mamba", dtype=torch.bfloat16), config, device="cpu")
    assert {layer.name for layer in plan.layers} & READ == taken


@pytest.mark.parametrize("config", [qt.AbsMax(), qt.NF4()], ids=["absmax", "nf4"])
def test_mamba_is_quantized_and_read_again(config: qt.AbsMax | qt.NF4, tmp_path: Path) -> None:
    model = random_model("mamba")
    q = qt.quantize(model, config, device="cpu", output=tmp_path / "result")
    assert {layer.name for layer in q.skipped if "reads its weight" in layer.skipped} >= READ
    loaded = qt.load(tmp_path / "result", device="cpu")
    assert isinstance(loaded, qt.QuantizedModel)
    with torch.no_grad():
        assert torch.equal(loaded.model(TOKENS).logits, q.model(TOKENS).logits)


@pytest.mark.skipif("qwen4_exp_text" not in CONFIG_MAPPING, reason="this transformers knows no Qwen 4")
def test_layers_named_weight_are_left_where_transformers_does_not_find_their_codes() -> None:
    """Of Qwen 4's `block_inject_weight.SCB`, "weight" is taken for the tensor's name; `input_mix_weight_up` is read."""
    model = small_model("qwen4_exp_text", dtype=torch.bfloat16)
    left, taken = (qt.plan(model, config, device="cpu") for config in (qt.Int8(), qt.AbsMax()))
    names = {layer.name for layer in taken.layers if layer.name.endswith("block_inject_weight")}
    assert len(names) == 4
    assert {layer.name for layer in left.skipped if "find them again" in layer.skipped} == names
