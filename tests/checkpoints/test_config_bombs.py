"""Configs that name more than any model has: refused in 5 s of processor time and 300 MB, before a model is built."""

import json
import os
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import DogeConfig, LlamaConfig, MixtralConfig

import qtoolkit as qt
from qtoolkit.checkpoints.config_limits import check_against_weights
from qtoolkit.errors import CheckpointError, QToolkitError
from qtoolkit.models import building
from tests.sample_models import random_model

# Of a busy machine: each is done in one or two, or in minutes.
SECONDS, MEGABYTES = 30, 300


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sound model; what a plan imports is imported."""
    folder = tmp_path_factory.mktemp("bombs")
    random_model("llama").save_pretrained(folder)
    qt.plan(folder, "absmax", machine="t4")
    return folder


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = {"text_config": value}
    return value


BOMBS: dict[str, dict[str, Any]] = {
    "labels": {"num_labels": 10**9},
    "layers of 9,999": {"num_hidden_layers": 9_999},
    "layers": {"num_hidden_layers": 10**9},
    "layers in a text_config": {"text_config": {"num_hidden_layers": 10**9}},
    "types of layers": {"layer_types": ["full_attention"] * 10**6},
    "size of heads": {"head_dim": 10**9},
    "words": {"vocab_size": 10**12},
    "hidden size": {"hidden_size": 10**18},
    "experts": {"model_type": "mixtral", "architectures": None, "num_local_experts": 10**9},
    "NaN": {"hidden_size": float("nan")},
    "infinity": {"intermediate_size": float("inf")},
    "a long text": {"hidden_act": "x" * 20_000_000},
    "deep": nested(500),
}


def in_a_child(call: Callable[[], None]) -> tuple[str, int]:
    """What a call raised, and by how many MB the resident memory grew; it is ended after 5 s of processor time."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        before = resident()
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
        try:
            call()
            said = "no error"
        except QToolkitError as error:
            said = f"{type(error).__name__}: {error}"
        except BaseException as error:  # noqa: BLE001  # what must not be
            said = f"raw {type(error).__name__}"
        os.write(writer, json.dumps([said[:4000], (peak() - before) // 1000]).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as stream:
        answer = stream.read()
    os.waitpid(child, 0)
    assert answer, f"it did not end within {SECONDS} s of processor time"
    said, grown = json.loads(answer)
    return said, grown


def resident() -> int:
    """Resident kB of this process."""
    return status("VmRSS")


def peak() -> int:
    """The most resident kB of this process."""
    return status("VmHWM")


def status(key: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:"))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("changes", BOMBS.values(), ids=BOMBS)
def test_a_bomb_is_refused(folder: Path, changes: dict[str, Any]) -> None:
    file = folder / "config.json"
    text = file.read_text(encoding="utf-8")
    file.write_text(json.dumps(json.loads(text) | changes), encoding="utf-8")
    try:
        said, grown = in_a_child(lambda: qt.plan(folder, "absmax", machine="t4") and None)
    finally:
        file.write_text(text, encoding="utf-8")
    assert said.startswith("CheckpointError: "), said
    assert grown < MEGABYTES


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize(
    "changes", [{"num_hidden_layers": 9_999}, {"head_dim": 10**9}, {"vocab_size": 10**12}], ids=str
)
def test_a_config_without_weights_is_refused(folder: Path, changes: dict[str, Any]) -> None:
    said, grown = in_a_child(lambda: qt.plan(LlamaConfig(**changes), "absmax", machine="t4") and None)
    assert said.startswith("CheckpointError: "), said
    assert grown < MEGABYTES


def test_layers_that_run_several_times_are_counted_by_another_number() -> None:
    shapes = {"model.L_module.layers.1.mlp.weight": (64, 64)}
    check_against_weights("HRM", {"num_hidden_layers": 16, "num_layers_per_stack": 2}, shapes)
    with pytest.raises(CheckpointError, match="16 by its config, and 2 by its weights"):
        check_against_weights("HRM", {"num_hidden_layers": 16, "num_layers_per_stack": 4}, shapes)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"num_hidden_layers": 400}, "400 by its config, and 2 by its weights"),
        ({"vocab_size": 50_000}, "no weight has more than 256"),
        ({"hidden_size": 4096}, "no weight has more than 256"),
    ],
    ids=["layers", "vocabulary", "hidden size"],
)
def test_another_model_than_the_weights_is_not_built(
    folder: Path, changes: dict[str, Any], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(*_: object) -> None:
        raise AssertionError("a model was built")

    monkeypatch.setattr(building, "build_empty", build)
    file = folder / "config.json"
    text = file.read_text(encoding="utf-8")
    file.write_text(json.dumps(json.loads(text) | changes), encoding="utf-8")
    try:
        with pytest.raises(CheckpointError, match=told):
            qt.plan(folder, "absmax", machine="t4")
    finally:
        file.write_text(text, encoding="utf-8")


@pytest.mark.parametrize("key", ["_attn_implementation", "attn_implementation", "_experts_implementation"])
def test_a_kernel_of_the_hub_is_left_out(folder: Path, key: str) -> None:
    file = folder / "config.json"
    text = file.read_text(encoding="utf-8")
    file.write_text(json.dumps(json.loads(text) | {key: "org/kernel", "auto_map": {"AutoConfig": "x.X"}}))
    try:
        notes = qt.plan(folder, "absmax", machine="t4").notes
    finally:
        file.write_text(text, encoding="utf-8")
    assert any(f"{key} 'org/kernel'" in note for note in notes)
    assert any("auto_map" in note for note in notes)


def test_experts_in_an_embedding_are_planned() -> None:
    config = DogeConfig(num_hidden_layers=4, hidden_size=64, intermediate_size=64, vocab_size=64)
    assert config.num_experts == 16_384
    assert qt.plan(config, "absmax", machine="t4").layers


def test_more_experts_than_any_model_has_are_not_taken_apart() -> None:
    config = MixtralConfig(num_hidden_layers=30, num_local_experts=2_000, hidden_size=64, intermediate_size=64)
    with pytest.raises(CheckpointError, match="has 60000 experts by its config, and no model has more than 50000"):
        qt.plan(config, "gptq", machine="t4")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_type_that_is_text_is_read_in_a_config_alone(dtype: str) -> None:
    config = random_model("llama").config
    plans = []
    for value in (getattr(torch, dtype), dtype):
        config.dtype = value
        plans.append(qt.plan(config, "absmax", machine="t4"))
    assert plans[1].source == plans[0].source
    assert plans[1].layers == plans[0].layers


@pytest.mark.parametrize("dtype", ["int4", "", 7, float("nan")], ids=repr)
def test_a_type_that_no_model_computes_in_is_refused_in_a_config_alone(dtype: object) -> None:
    config = random_model("llama").config
    config.dtype = dtype
    with pytest.raises(CheckpointError, match=r"this LlamaConfig wants .* as dtype: it must be one of bfloat16"):
        qt.plan(config, "absmax", machine="t4")
