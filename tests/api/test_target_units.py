"""A target gives layers that programs fuse the same bits, and the best ones that are left."""

from collections import defaultdict
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

import qtoolkit as qt
from qtoolkit.methods import get_method
from qtoolkit.models.opening import open_checkpoint
from qtoolkit.planning.layers import layers_to_quantize
from qtoolkit.records import ignore_progress
from qtoolkit.sensitivity import measure_sensitivity
from tests.methods.gptq.jobs import gptq
from tests.sample_models import random_model

pytestmark = pytest.mark.slow

ATTENTION = ("q_proj", "k_proj", "v_proj")


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


def unit_of(name: str) -> str:
    """Name the unit by a rule of this file alone: queries, keys and values; gates and ups; all experts of a block."""
    parent, _, kind = name.rpartition(".")
    if ".experts." in name:
        return name.partition(".experts.")[0]
    return f"{parent}.{'qkv' if kind in ATTENTION else 'gate_up' if kind in ('gate_proj', 'up_proj') else kind}"


def bits_by_unit(layers: Any) -> dict[str, set[int]]:
    found = defaultdict(set)
    for layer in layers:
        found[unit_of(layer.name)].add(layer.bits)
    return dict(found)


def test_units_of_unequal_shapes_get_the_best_bits_that_the_target_allows(tiny_llama: Path) -> None:
    """Compared with all 256 layouts; queries have twice the outputs of keys and values."""
    config = qt.AbsMax(granularity="group", target_bits=6)
    plan = qt.plan(tiny_llama, config, device="cpu")
    found = bits_by_unit(plan.layers)
    assert {len(own) for own in found.values()} == {1} and {bits for own in found.values() for bits in own} == {4, 8}
    checkpoint = open_checkpoint(tiny_llama, revision=None, token=None, tokenizer=None, on_progress=ignore_progress)
    method = get_method("absmax")
    layers = layers_to_quantize(checkpoint, method, config, "cpu")
    shapes = {layer.name.rpartition(".")[2]: layer.out_features for layer in layers}
    assert shapes["q_proj"] == 2 * shapes["k_proj"]
    losses = measure_sensitivity(checkpoint, method, config, dict.fromkeys(layers, (4, 8)), device="cpu").by_layer()
    size, loss = defaultdict(float), defaultdict(float)
    for layer in layers:
        for bits in (4, 8):
            key = unit_of(layer.name), bits
            size[key] += method.plan_layer(layer, config.choosing(bits)).disk_bytes
            loss[key] += losses[layer.name][bits].loss
    budget = 6 * sum(layer.num_weights for layer in layers) / 8
    layouts = [tuple(zip(found, bits, strict=True)) for bits in product((4, 8), repeat=len(found))]
    assert len(layouts) == 256
    chosen = sum(loss[unit, bits] for unit, (bits,) in found.items())
    fitting = [layout for layout in layouts if sum(size[key] for key in layout) <= budget]
    least = min(sum(loss[key] for key in layout) for layout in fitting)
    # Greedy on hulls loses at most what one step would have saved.
    assert least * (1 - 1e-6) <= chosen <= least + max(loss[unit, 4] - loss[unit, 8] for unit in found)
    assert chosen < 0.9 * sum(sum(loss[key] for key in layout) for layout in fitting) / len(fitting)


@pytest.mark.parametrize("architecture", ["phi3", "mixtral"])
def test_what_is_fused_in_the_model_and_experts(architecture: str, tiny_llama: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    random_model(architecture, torch.bfloat16, vocab_size=len(tokenizer)).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    plan = qt.plan(tmp_path / "model", gptq(target_bits=5.5), device="cpu")
    found = bits_by_unit(plan.layers)
    assert {len(own) for own in found.values()} == {1} and len({bits for own in found.values() for bits in own}) > 1
    names = {unit.partition("layers.0.")[2] for unit in found if "layers.0." in unit}
    if architecture == "phi3":
        assert names == {"self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj"}
    assert not any("fuse" in note for note in plan.notes)


def test_single_rules_do_not_mix_a_target(tiny_llama: Path) -> None:
    """The bits of a unit go to each of its layers by name, so that no pattern of another block takes one of them."""
    plan = qt.plan(tiny_llama, gptq(target_bits=4.7), device="cpu")
    assert {len(own) for own in bits_by_unit(plan.layers).values()} == {1}
    assert not any("fuse" in note for note in plan.notes)
