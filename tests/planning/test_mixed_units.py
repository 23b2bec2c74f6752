"""A plan tells which layers differ that serving programs join, whatever made them differ, and only then."""

from pathlib import Path
from typing import Any

import pytest

import qtoolkit as qt
from tests.methods.gptq.jobs import gptq
from tests.sample_models import random_model

WHOLE = "to make whole what vLLM and SGLang fuse"
FUSED = "vLLM and SGLang fuse them and refuse a mixed unit"


def notes(model: Any, config: Any) -> list[str]:
    return [
        note
        for note in qt.plan(model, config, device="cpu").notes
        if "fuse" in note and not note.startswith("not loaded by")
    ]


@pytest.mark.parametrize("format_", ["gptq", "compressed-tensors"])
def test_rules_that_mix_a_unit(tiny_llama: Path, format_: str) -> None:
    config = gptq(bits=4, format=format_, rules={"q_proj": {"bits": 3}, "*.1.mlp.up_proj": {"bits": 8}})
    assert notes(tiny_llama, config) == [
        f"q_proj 3 bits, k_proj and v_proj 4 bits in model.layers.0.self_attn and 1 more: {FUSED}",
        f"gate_proj 4 bits, up_proj 8 bits in model.layers.1.mlp: {FUSED}",
        f"{WHOLE}: quantize q_proj, k_proj and v_proj alike; quantize gate_proj and up_proj alike",
    ]


def test_an_exclude_that_mixes_a_unit(tiny_llama: Path) -> None:
    config = gptq(bits=4, exclude=("lm_head", "*.0.*.v_proj"))
    expected = f"q_proj and k_proj 4 bits, v_proj not quantized in model.layers.0.self_attn: {FUSED}"
    queries, keys, values = (f"'model.layers.0.self_attn.{end}_proj'" for end in "qkv")
    whole = f"{WHOLE}: exclude {queries} and {keys} too, or quantize {values} too"
    assert notes(tiny_llama, config) == [expected, whole]


def test_many_mixtures_are_counted(tiny_llama: Path) -> None:
    rules = {"*.0.*.q_proj": 2, "*.1.*.k_proj": 3, "*.0.*.up_proj": 8, "*.1.*.up_proj": 3}
    found = notes(tiny_llama, gptq(bits=4, rules={name: {"bits": bits} for name, bits in rules.items()}))
    assert len(found) == 4 and found[2] == "2 other mixtures of layers that vLLM and SGLang fuse"


UNMIXED: dict[str, tuple[str, dict[str, Any]]] = {
    "the same bits": ("llama", {}),
    "whole units": ("llama", {"rules": {"*.self_attn.?_proj": {"bits": 3}, "mlp.down_proj": {"bits": 8}}}),
    "whole units excluded": ("llama", {"exclude": ("lm_head", "*.gate_proj", "*.up_proj", "*.o_proj")}),
    "fused in the model": ("phi3", {"rules": {"qkv_proj": {"bits": 3}, "gate_up_proj": {"bits": 8}}}),
    "experts alike": ("mixtral", {"rules": {"*.experts.*": {"bits": 8}}}),
}


@pytest.mark.parametrize(("architecture", "options"), UNMIXED.values(), ids=UNMIXED)
def test_nothing_is_told_of_units_that_are_alike(architecture: str, options: dict[str, Any]) -> None:
    assert notes(random_model(architecture), gptq(bits=4, calibration="self", **options)) == []


def test_experts_that_differ_are_a_mixed_unit() -> None:
    found = notes(random_model("mixtral"), gptq(bits=4, calibration="self", rules={"*.experts.1.w2": {"bits": 8}}))
    note, whole = found
    assert whole == f"{WHOLE}: quantize all experts alike"
    assert note.startswith("w1 and w3 and w2 4 bits, w2 8 bits in model.layers.0.") and note.endswith(
        f"1 more: {FUSED}"
    )


def test_a_format_that_no_such_program_reads(tiny_llama: Path) -> None:
    assert notes(tiny_llama, qt.AbsMax(bits=4, format="native", rules={"q_proj": {"bits": 8}})) == []
