"""Damaged AWQ checkpoints, and configs that do not say what the tensors are: one line, before work."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import qtoolkit as qt
from qtoolkit.errors import QToolkitError, UnsupportedModelError
from qtoolkit.formats import get_format
from qtoolkit.formats.awq.config import options_of, read_awq_config
from tests.formats.awq.awq_files import Recipe, Tensors, write_checkpoint
from tests.formats.quantized_folders import refusal, write

pytestmark = pytest.mark.slow

LAYER = "model.layers.0.mlp.up_proj"  # [128, 64] in groups of 32
Change = Callable[[torch.Tensor], torch.Tensor | None]


@pytest.fixture(scope="module")
def tensors(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Tensors]:
    folder = tmp_path_factory.mktemp("sound")
    return folder / "packed", write_checkpoint(Recipe(), folder)


@pytest.fixture
def sound(tensors: tuple[Path, Tensors], tmp_path: Path) -> tuple[Path, Tensors]:
    """A folder of one's own, and the tensors to write into it."""
    (tmp_path / "config.json").write_text((tensors[0] / "config.json").read_text())
    return tmp_path, dict(tensors[1])


def problems(folder: Path, config: dict[str, Any]) -> list[str]:
    found = list(get_format("awq").problems(folder, config))
    assert not any("\n" in line or str(folder) in line for line in found)
    return found


DAMAGES: dict[str, tuple[str, Change, str]] = {
    "no codes": ("qweight", lambda _: None, "is missing"),
    "no zero points": ("qzeros", lambda _: None, "is missing"),
    "no scales": ("scales", lambda _: None, "is missing"),
    "long codes": ("qweight", lambda t: t.long(), "has the type int64: it must be int32"),
    "whole scales": ("scales", lambda t: t.int(), "has the type int32: it must be float16"),
    "fewer inputs": ("qweight", lambda t: t[:32].clone(), "has the shape [32, 16]: it must be [64, 16]"),
    "packed along the inputs": ("qweight", lambda t: t.reshape(8, 128), "has the shape [8, 128]: it must be [64, 16]"),
    "a group less": ("scales", lambda t: t[:1].clone(), "has the shape [1, 128]: it must be [2, 128]"),
    "zero points of a group": ("qzeros", lambda t: t[:1].clone(), "has the shape [1, 16]: it must be [2, 16]"),
    "not a number": ("scales", lambda t: t * torch.nan, "holds NaN or infinity"),
    "a bias of fewer outputs": ("bias", lambda _: torch.zeros(64).half(), "has the shape [64]: it must be [128]"),
}


@pytest.mark.parametrize(("part", "change", "said"), DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_layer(part: str, change: Change, said: str, sound: tuple[Path, Tensors]) -> None:
    folder, tensors = sound
    changed = change(tensors.pop(f"{LAYER}.{part}", torch.empty(0)))
    if changed is not None:
        tensors[f"{LAYER}.{part}"] = changed
    write(folder, tensors, Recipe().config)
    text = refusal(folder)
    assert said in text
    assert LAYER in text


LIES: dict[str, tuple[dict[str, Any], str]] = {
    "groups": ({"group_size": 64}, "qzeros has the shape [4, 8]: it must be [2, 8]"),
    "all inputs": ({"group_size": -1}, "qzeros has the shape"),
    "groups of 48": ({"group_size": 48}, "group_size must be -1 or divide"),
    "no groups": ({"group_size": 0}, "the AWQ config has group_size 0: it must be -1 or at least 1"),
    "text": ({"bits": "4"}, "the AWQ config has bits '4': it must be a whole number"),
    "true": ({"group_size": True}, "the AWQ config has group_size True: it must be a whole number"),
    "no list": ({"modules_to_not_convert": "gate"}, "modules_to_not_convert 'gate': it must be a list of names"),
    "an empty name": ({"modules_to_not_convert": [""]}, "modules_to_not_convert ['']: it must be a list"),
}
ELSEWHERE: dict[str, tuple[dict[str, Any], str]] = {
    "8 bits": ({"bits": 8}, "AWQ is read with 4 bits, not 8: load it with gptqmodel, or name the full-precision"),
    **{
        name: ({"version": name}, f"AWQ is read in version 'gemm', not '{name}': load it with gptqmodel")
        for name in ("gemv", "GEMV_fast", "marlin", "exllama", "ipex")
    },
    "a format": ({"version": None, "checkpoint_format": "gemv"}, "in version 'gemm', not 'gemv'"),
    "groups of 16": ({"group_size": 16}, "AWQ in groups of 16 is not read here"),
    "no text": ({"version": 4}, "in version 'gemm', not 4"),
    "MIT's own": ({"backend": "llm-awq"}, "in version 'gemm', not 'llm-awq'"),
}


@pytest.mark.parametrize(("changes", "said"), LIES.values(), ids=LIES)
def test_a_config_that_lies(changes: dict[str, Any], said: str, sound: tuple[Path, Tensors]) -> None:
    folder, tensors = sound
    config = Recipe().config | changes
    write(folder, tensors, config)
    assert said in refusal(folder)
    assert problems(folder, config)


@pytest.mark.parametrize(("changes", "said"), ELSEWHERE.values(), ids=ELSEWHERE)
def test_a_kind_of_awq_that_is_not_read(changes: dict[str, Any], said: str, sound: tuple[Path, Tensors]) -> None:
    folder, tensors = sound
    config = Recipe().config | changes
    write(folder, tensors, config)
    assert said in refusal(folder, UnsupportedModelError)
    assert problems(folder, config)


SAME: dict[str, dict[str, Any]] = {
    "AutoAWQ's capitals": {"version": "GEMM"},
    "old keys": {"bits": None, "group_size": None, "w_bit": 4, "q_group_size": 32},
    "gptqmodel's keys": {
        "version": None,
        "format": "gemm",
        "checkpoint_format": "gemm",
        "sym": False,
        "desc_act": False,
    },
    "auto-round's keys": {"provider": "auto-round", "sym": True, "zero_point": False},
}


@pytest.mark.parametrize("changes", SAME.values(), ids=SAME)
def test_the_keys_of_other_writers(changes: dict[str, Any], sound: tuple[Path, Tensors]) -> None:
    folder, tensors = sound
    config = Recipe().config | changes
    write(folder, tensors, config)
    assert isinstance(qt.load(folder, device="cpu"), qt.QuantizedModel)
    assert problems(folder, config) == []


def test_layers_that_readers_take_for_others(sound: tuple[Path, Tensors]) -> None:
    """vLLM looks for a part of the name, so that "mlp.up" leaves out what is quantized."""
    folder, tensors = sound
    config = Recipe().config | {"modules_to_not_convert": ["0.mlp.up"]}
    write(folder, tensors, config)
    assert problems(folder, config) == [
        f"{LAYER} is quantized in the file, and config.json has it in modules_to_not_convert"
    ]


def test_activations_that_are_scaled_are_refused(sound: tuple[Path, Tensors]) -> None:
    folder, tensors = sound
    tensors["model.layers.0.mlp.act.scales"] = torch.ones(128).half()
    write(folder, tensors, Recipe().config)
    said = "model.layers.0.mlp.act.scales divides activations, which is not read here"
    assert said in refusal(folder, UnsupportedModelError)
    assert said in problems(folder, Recipe().config)[0]


def test_codes_of_no_layer(sound: tuple[Path, Tensors]) -> None:
    folder, tensors = sound
    tensors["model.embed_tokens.qweight"] = torch.zeros(64, 32).int()
    write(folder, tensors, Recipe().config)
    assert "model.embed_tokens.qweight belongs to no linear layer of Llama" in refusal(folder, UnsupportedModelError)


def test_no_codes_at_all(sound: tuple[Path, Tensors]) -> None:
    folder, tensors = sound
    write(folder, {name: one for name, one in tensors.items() if name.endswith(".weight")}, Recipe().config)
    assert "the config says AWQ, but no tensor ends in .qweight" in refusal(folder)


def test_a_sound_folder_has_no_problem(sound: tuple[Path, Tensors]) -> None:
    folder, tensors = sound
    write(folder, tensors, Recipe().config)
    assert problems(folder, Recipe().config) == []


VALUES = st.none() | st.booleans() | st.integers(-2, 200) | st.floats() | st.text(max_size=4) | st.just("gemm")
ANY = st.recursive(VALUES, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=2), inner))


@settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.sampled_from([*Recipe().config, "format", "w_bit", "q_group_size", "backend"]), ANY))
def test_any_config_is_read_or_refused_in_one_line(values: dict[str, Any]) -> None:
    json.dumps(values)
    try:
        assert read_awq_config(values).group_size == options_of(values)["group_size"]
    except QToolkitError as error:
        assert len(str(error).splitlines()) == 1  # noqa: PT017 it need not raise
