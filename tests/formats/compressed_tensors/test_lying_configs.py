"""Damaged compressed-tensors checkpoints, and configs that do not say what the tensors are: one line, before work."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import qtoolkit as qt
from qtoolkit.errors import CheckpointError, SourceError, UnsupportedModelError
from qtoolkit.formats import get_format
from qtoolkit.publishing.artifact import open_artifact
from qtoolkit.publishing.contract_check import stored_in
from tests.formats.compressed_tensors.packed_files import Recipe, Tensors, write_checkpoint
from tests.formats.quantized_folders import refusal, write

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


DAMAGES: dict[str, tuple[str, Change, str]] = {
    "no codes": ("weight_packed", lambda _: None, "is missing"),
    "no scales": ("weight_scale", lambda _: None, "is missing"),
    "no shape": ("weight_shape", lambda _: None, "is missing"),
    "float codes": ("weight_packed", lambda t: t.float(), "has the type float32: it must be int32"),
    "whole scales": ("weight_scale", lambda t: t.int(), "has the type int32: it must be float16"),
    "fewer outputs": ("weight_packed", lambda t: t[:64].clone(), "has the shape [64, 8]: it must be [128, 8]"),
    "cut off": ("weight_packed", lambda t: t[:, :7].clone(), "has the shape [128, 7]: it must be [128, 8]"),
    "a group less": ("weight_scale", lambda t: t[:, :1].clone(), "has the shape [128, 1]: it must be [128, 2]"),
    "another shape": ("weight_shape", lambda t: t.flip(0), "weight_shape says [64, 128]: it must be [128, 64]"),
    "not a number": ("weight_scale", lambda t: t * torch.nan, "holds NaN or infinity"),
    "zero points": ("weight_zero_point", lambda _: torch.zeros(16, 2).int(), "says that it is symmetric"),
    "g_idx": ("weight_g_idx", lambda _: torch.zeros(64).int(), "weight_g_idx"),
    "bias of fewer outputs": ("bias", lambda _: torch.zeros(64).half(), "has the shape [64]: it must be [128]"),
}


@pytest.mark.parametrize(("part", "change", "said"), DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_layer(part: str, change: Change, said: str, sound: tuple[Path, Tensors]) -> None:
    folder, tensors = sound
    changed = change(tensors.pop(f"{LAYER}.{part}", torch.empty(0)))
    if changed is not None:
        tensors[f"{LAYER}.{part}"] = changed
    write(folder, tensors, Recipe().config)
    text = refusal(folder, SourceError)
    assert said in text
    assert LAYER in text


def weights(config: dict[str, Any]) -> dict[str, Any]:
    return config["config_groups"]["group_0"]["weights"]  # type: ignore[no-any-return]


def group(config: dict[str, Any]) -> dict[str, Any]:
    return config["config_groups"]["group_0"]  # type: ignore[no-any-return]


LIES: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "bits": (lambda c: weights(c).update(num_bits=8), "weight_packed has the shape [64, 16]: it must be [64, 32]"),
    "groups": (lambda c: weights(c).update(group_size=64), "weight_scale has the shape [64, 4]: it must be [64, 2]"),
    "no groups": (lambda c: weights(c).update(strategy="channel"), "weight_scale has the shape"),
    "odd groups": (lambda c: weights(c).update(group_size=33), "group_size must be -1 or divide 128 inputs, got 33"),
    "asymmetric": (lambda c: weights(c).update(symmetric=False), "weight_zero_point is missing"),
    "a layer ignored": (lambda c: c["ignore"].append(LAYER), f"{LAYER} is quantized, and the config says that it is"),
    "no class": (lambda c: group(c).update(targets=["re:.*attn.*"]), "is quantized, and the config says that it is"),
    "nothing ignored": (lambda c: c["ignore"].clear(), "lm_head is quantized, and its codes are missing"),
}
IMPOSSIBLE: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "no groups": (lambda c: c["config_groups"].clear(), "has config_groups {}"),
    "no weights": (lambda c: group(c).update(weights=None), "without weights"),
    "odd bits": (lambda c: weights(c).update(num_bits="4"), "num_bits '4': it must be a whole number"),
    "switch": (lambda c: weights(c).update(symmetric="yes"), "symmetric 'yes': it must be true or false"),
    "targets": (lambda c: group(c).update(targets="Linear"), "targets 'Linear': it must be a list of names"),
    "pattern": (lambda c: group(c).update(targets=["re:("]), "no regular expression"),
    "negative": (lambda c: weights(c).update(group_size=-64), "group_size -64: it must be at least 1"),
}
UNSUPPORTED: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "format": (lambda c: c.update(format="mxfp4-pack-quantized"), "format 'mxfp4-pack-quantized' is not read here"),
    "bytes": (lambda c: c.update(format="int-quantized"), "num_bits 4 is not read here"),
    "activations": (lambda c: group(c).update(input_activations={"num_bits": 8}), "input_activations"),
    "act order": (lambda c: weights(c).update(actorder="group"), "actorder 'group' is not read here"),
    "floats": (lambda c: weights(c).update(type="float"), "type 'float' is not read here"),
    "9 bits": (lambda c: weights(c).update(num_bits=9), "is read with 2 to 8 bits, not 9"),
    "key and value cache": (lambda c: c.update(kv_cache_scheme={"num_bits": 8}), "kv_cache_scheme"),
    "transforms": (lambda c: c.update(transform_config={"config_groups": {}}), "transform_config"),
}
KINDS = [(lie, CheckpointError) for lie in (*LIES.items(), *IMPOSSIBLE.items())]
KINDS += [(lie, UnsupportedModelError) for lie in UNSUPPORTED.items()]  # type: ignore[misc]


@pytest.mark.parametrize(("lie", "error"), KINDS, ids=[lie[0] for lie, _ in KINDS])
def test_a_config_that_lies(lie: tuple[str, Any], error: type[SourceError], sound: tuple[Path, Tensors]) -> None:
    folder, tensors = sound
    change, said = lie[1]
    config = Recipe().config
    change(config)
    write(folder, tensors, config)
    assert said in refusal(folder, SourceError)


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
def test_the_same_is_a_problem_of_the_folder(lie: tuple[Any, str], sound: tuple[Path, Tensors]) -> None:
    folder, tensors = sound
    config = Recipe().config
    lie[0](config)
    write(folder, tensors, config)
    named = get_format("compressed-tensors").problems(folder, config)
    assert named or not config["ignore"]
    assert not any("\n" in line or str(folder) in line for line in named)


@pytest.mark.parametrize(("changes", "said"), [({"group_size": 16}, "groups of 16"), ({"bits": 7}, "7 bits")])
def test_kinds_that_are_no_option_of_a_method(changes: dict[str, int], said: str, tmp_path: Path) -> None:
    recipe = Recipe(**changes)  # type: ignore[arg-type]
    write_checkpoint(recipe, tmp_path)
    assert said in refusal(tmp_path / "packed", UnsupportedModelError)


def test_a_sound_folder_has_no_problem(sound: tuple[Path, Tensors]) -> None:
    folder, tensors = sound
    write(folder, tensors, Recipe().config)
    assert get_format("compressed-tensors").problems(folder, Recipe().config) == []
    assert isinstance(qt.load(folder, device="cpu"), qt.QuantizedModel)


@pytest.mark.parametrize(
    "origin",
    [{"method": "nf4", "options": {}}, {"method": "absmax", "options": {"bits": 4, "format": "native"}}],
    ids=["nf4", "native"],
)
def test_who_reads_a_folder_is_told_by_its_format_whatever_it_says_of_its_method(
    origin: dict[str, Any], sound: tuple[Path, Tensors]
) -> None:
    folder, tensors = sound
    write(folder, tensors, Recipe().config | {"qtoolkit": origin})
    stored = stored_in(open_artifact(folder))
    assert stored is not None and stored.format == "compressed-tensors"
