"""FP8 and int8 checkpoints of other programs: read, planned and saved again as they are; damaged ones are refused."""

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import qtoolkit as qt
from qtoolkit.errors import QToolkitError
from qtoolkit.formats import get_format
from qtoolkit.kernels import QuantizedLinear
from tests.formats.compressed_tensors.byte_files import Tensors, config_of, write_checkpoint
from tests.formats.quantized_folders import refusal, write

KINDS = ("channel", "block", "int")
LAYER = "model.layers.0.mlp.up_proj"  # [384, 128]
CONFIGS = {"channel": qt.FP8(), "block": qt.FP8(granularity="block"), "int": qt.W8A8()}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Tensors, Tensors]]:
    folders = {kind: tmp_path_factory.mktemp(kind) for kind in KINDS}
    return {kind: (folder / "packed", *write_checkpoint(kind, folder)) for kind, folder in folders.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_every_weight_is_the_one_that_is_stored(kind: str, made: Any) -> None:
    folder, _, full = made[kind]
    loaded = qt.load(folder, device="cpu")
    assert isinstance(loaded, qt.QuantizedModel)
    assert loaded.config == CONFIGS[kind]
    assert loaded.memory.footprint_after == loaded.memory.predicted_footprint_after
    for name, weight in full.items():
        layer = loaded.model.get_submodule(name.removesuffix(".weight"))
        assert isinstance(layer, QuantizedLinear)
        assert torch.equal(layer.dequantize().double(), weight)


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_saved_again_as_it_was(kind: str, made: Any, tmp_path: Path) -> None:
    folder, tensors, _ = made[kind]
    qt.load(folder, device="cpu").save(tmp_path / "again")
    again = load_file(tmp_path / "again" / "model.safetensors")
    assert again.keys() == tensors.keys()
    assert all(torch.equal(again[name].float(), tensor.float()) for name, tensor in tensors.items())
    assert {again[name].dtype for name in tensors} == {tensor.dtype for tensor in tensors.values()}
    values = json.loads((tmp_path / "again" / "config.json").read_bytes())["quantization_config"]
    assert values == config_of(kind)


Change = Callable[[torch.Tensor], torch.Tensor | None]
DAMAGES: dict[str, tuple[str, Change, str]] = {
    "no codes": ("weight", lambda _: None, "weight is missing"),
    "no scales": ("weight_scale", lambda _: None, "weight_scale is missing"),
    "full weights": ("weight", lambda t: t.bfloat16(), "has the type bfloat16: it must be float8_e4m3fn"),
    "another float8": ("weight", lambda t: t.float().to(torch.float8_e5m2), "must be float8_e4m3fn"),
    "integers": ("weight", lambda t: t.float().char(), "has the type int8: it must be float8_e4m3fn"),
    "whole scales": ("weight_scale", lambda t: t.int(), "has the type int32"),
    "one scale": ("weight_scale", lambda t: t[:1].clone(), "has the shape [1, 1]: it must be [384, 1]"),
    "flat scales": ("weight_scale", lambda t: t[:, 0].clone(), "has the shape [384]: it must be [384, 1]"),
    "cut off": ("weight", lambda t: t[:, :127].clone(), "has the shape [384, 127]: it must be [384, 128]"),
    "not a number": ("weight_scale", lambda t: t * torch.nan, "holds NaN or infinity"),
    "too large": ("weight_scale", lambda t: t * 0 + 1e38, "with which weights pass the largest number of"),
    # The largest code of float8 is 448, of int8 127: 2e36 times 448 is no bfloat16, and times 127 one.
    "too large for 448": ("weight_scale", lambda t: t * 0 + 2e36, "with which weights pass the largest number of"),
    "negative": ("weight_scale", lambda t: -t, "weight_scale holds negative numbers"),
    "NaN codes": ("weight", lambda t: (t.float() * torch.nan).to(t.dtype), "weight holds NaN"),
    "zero points": ("weight_zero_point", lambda _: torch.zeros(384, 1).char(), "has weight_zero_point"),
    "static inputs": ("input_scale", lambda _: torch.ones(1), "has input_scale"),
}


@pytest.fixture
def sound(made: Any, tmp_path: Path) -> tuple[Path, Tensors]:
    folder, tensors, _ = made["channel"]
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    return tmp_path, dict(tensors)


@pytest.mark.slow
@pytest.mark.parametrize(("part", "change", "said"), DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_layer(part: str, change: Change, said: str, sound: tuple[Path, Tensors]) -> None:
    folder, tensors = sound
    changed = change(tensors.pop(f"{LAYER}.{part}", torch.empty(0)))
    if changed is not None:
        tensors[f"{LAYER}.{part}"] = changed
    write(folder, tensors, config_of("channel"))
    text = refusal(folder)
    assert said in text
    assert LAYER in text


def group(config: dict[str, Any]) -> dict[str, Any]:
    return config["config_groups"]["group_0"]  # type: ignore[no-any-return]


def weights(config: dict[str, Any]) -> dict[str, Any]:
    return group(config)["weights"]  # type: ignore[no-any-return]


def inputs(config: dict[str, Any]) -> dict[str, Any]:
    return group(config)["input_activations"]  # type: ignore[no-any-return]


BLOCKS = {"strategy": "block", "block_structure": [128, 128]}
LIES: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "packed": (lambda c: (c.update(format="pack-quantized"), group(c).pop("format")), "input_activations"),
    "integers": (lambda c: (weights(c).update(type="int"), inputs(c).update(type="int")), "it must be int8"),
    "4 bits": (lambda c: weights(c).update(num_bits=4), "num_bits 4 is not read here"),
    "blocks": (
        lambda c: (weights(c).update(BLOCKS), inputs(c).update(strategy="group", group_size=128)),
        "it must be [1, 3]",
    ),
    "odd blocks": (
        lambda c: weights(c).update(strategy="block", block_structure=[128]),
        "in blocks of [128] by its config",
    ),
    "a layer ignored": (lambda c: c["ignore"].append(LAYER), f"{LAYER} is quantized, and the config says that it is"),
    "nothing ignored": (lambda c: c["ignore"].clear(), "lm_head is quantized, and its codes are missing"),
    "weights as text": (lambda c: group(c).update(weights="float"), "without weights"),
}


@pytest.mark.slow
@pytest.mark.parametrize(("change", "said"), LIES.values(), ids=LIES)
def test_a_config_that_lies(change: Callable[[dict[str, Any]], object], said: str, sound: Any) -> None:
    folder, tensors = sound
    config = config_of("channel")
    change(config)
    write(folder, tensors, config)
    assert said in refusal(folder)
    named = get_format("compressed-tensors").problems(folder, config)
    assert named or not config["ignore"]
    assert not any("\n" in line or str(folder) in line for line in named)


# The layers that are computed as they are stored do not read these; their weights can be expanded all the same.
OTHERWISE: dict[str, Callable[[dict[str, Any]], object]] = {
    "other inputs": lambda c: inputs(c).update(type="int"),
    "no inputs": lambda c: group(c).update(input_activations=None),
    "inputs as text": lambda c: group(c).update(input_activations="token"),
    "static": lambda c: inputs(c).update(dynamic=False, strategy="tensor"),
    "groups of inputs": lambda c: inputs(c).update(strategy="group", group_size=128),
    "asymmetric": lambda c: weights(c).update(symmetric=False),
    "a scale a tensor": lambda c: weights(c).update(strategy="tensor"),
    "small blocks": lambda c: weights(c).update(strategy="block", block_structure=[64, 64]),
}


@pytest.mark.slow
@pytest.mark.parametrize("change", OTHERWISE.values(), ids=OTHERWISE)
def test_a_config_of_other_inputs_or_scales_is_expanded(
    change: Callable[[dict[str, Any]], object], sound: Any, made: Any
) -> None:
    folder, tensors = sound
    config = config_of("channel")
    change(config)
    write(folder, tensors, config)
    model = qt.load(folder, device="cpu")
    assert not isinstance(model, qt.QuantizedModel)
    for name, weight in made["channel"][2].items():
        assert torch.equal(model.get_parameter(name).double(), weight.to(model.dtype).double())
    assert get_format("compressed-tensors").problems(folder, config)


def test_a_sound_folder_has_no_problem(made: Any) -> None:
    for kind, (folder, _, _) in made.items():
        assert get_format("compressed-tensors").problems(folder, config_of(kind)) == []


VALUES = [None, True, 0, -1, 1e400, "", "float", "re:(", [], [128, 128], {}, {"num_bits": 8}, "block", 8, 2**70]


def mutated(values: Any, random: Random) -> Any:
    """The same with one value, key or element replaced."""
    place: Any = values
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = random.choice(keys)
        if isinstance(place[key], dict | list) and place[key] and random.random() < 0.8:
            place = place[key]
            continue
        if random.random() < 0.2:
            del place[key]
        else:
            place[key] = random.choice(VALUES)
        return values


@pytest.mark.parametrize("seed", range(24))
def test_any_config_is_read_or_refused(seed: int, sound: tuple[Path, Tensors]) -> None:
    folder, tensors = sound
    random = Random(seed)  # noqa: S311
    config = mutated(config_of(random.choice(KINDS)), random)
    write(folder, tensors, config)
    assert not any("\n" in line for line in get_format("compressed-tensors").problems(folder, config))
    # Anything else that is raised fails the test.
    with suppress(QToolkitError):
        qt.load(folder, device="cpu")


@pytest.mark.parametrize("kind", sorted({*KINDS} - {"int"}))
def test_other_formats_do_not_take_over_float8(kind: str, made: Any, tmp_path: Path) -> None:
    """Integers do go: tests/jobs/test_converting_rounded.py."""
    with pytest.raises(
        QToolkitError, match="has float8 codes, which compressed-tensors alone holds, as they are stored"
    ):
        qt.convert(made[kind][0], format="gptq", output=tmp_path / "out")
