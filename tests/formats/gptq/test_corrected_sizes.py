"""A GPTQ config whose bits or groups no tensor has is corrected, and what is read otherwise than it says is told."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import qtoolkit as qt
from tests.formats.gptq.files import Recipe, Tensors, write, write_checkpoint

UP = r"+:.*\.up_proj"


@pytest.fixture(scope="module")
def tensors(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Tensors]:
    folder = tmp_path_factory.mktemp("sound")
    return folder / "gptq", write_checkpoint(Recipe(), folder)


def noted(tensors: tuple[Path, Tensors], folder: Path, without: str = "", **changes: Any) -> tuple[qt.GPTQ, list[str]]:
    """The config as it is read, and the notes that tell what was not as it says."""
    (folder / "config.json").write_text((tensors[0] / "config.json").read_text())
    kept = {name: tensor for name, tensor in tensors[1].items() if not (without and name.endswith(without))}
    write(folder, kept, Recipe().config | changes)
    result = qt.load(folder, device="cpu")
    assert isinstance(result, qt.QuantizedModel) and isinstance(result.config, qt.GPTQ)
    told = [note for note in result.report.notes if note.startswith("read ")]
    return result.config, told


@pytest.mark.parametrize("without", ["", ".g_idx"])
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"bits": 8}, ["read with bits 4, which its tensors have: its config says 8"]),
        ({"group_size": 64}, ["read with group_size 32, which its tensors have: its config says 64"]),
        ({"group_size": -1}, ["read with group_size 32, which its tensors have: its config says -1"]),
        ({}, []),
    ],
)
def test_what_no_layer_has_is_corrected(
    tensors: tuple[Path, Tensors], tmp_path: Path, changes: dict[str, Any], said: list[str], without: str
) -> None:
    config, notes = noted(tensors, tmp_path, without, **changes)
    assert notes == said
    assert (config.bits, config.group_size) == (4, 32)


@pytest.mark.parametrize(
    ("dynamic", "said"),
    [
        ({UP: {"bits": 8}}, "has 4 bits in the file, and 8 in config.json"),
        ({UP: {"group_size": 64}}, "has 2 groups in the file, and 1 by config.json"),
        ({r"-:.*\.up_proj": {}}, "is quantized in the file, and not in config.json"),
    ],
)
def test_single_layers_are_told(tensors: tuple[Path, Tensors], tmp_path: Path, dynamic: Any, said: str) -> None:
    _, (note,) = noted(tensors, tmp_path, dynamic=dynamic)
    assert note == (
        f"read by its tensors and not by its config: model.layers.0.mlp.up_proj {said}, "
        "and 1 more layers are not as it says"
    )


def test_both_lies_at_once(tensors: tuple[Path, Tensors], tmp_path: Path) -> None:
    source = tmp_path / "gptq"
    source.mkdir()
    config, notes = noted(tensors, source, bits=2, group_size=128, dynamic={UP: {"bits": 4, "group_size": 32}})
    assert len(notes) == 2 and (config.bits, config.group_size) == (4, 32)
    qt.convert(source, "compressed-tensors", tmp_path / "out")
    weights = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]
    assert weights["config_groups"]["group_0"]["weights"]["num_bits"] == 4


@pytest.mark.parametrize("which", [min, max], ids=["first layer", "last layer"])
def test_zero_points_that_sym_denies_are_told(tensors: tuple[Path, Tensors], tmp_path: Path, which: Any) -> None:
    name = which(name for name in tensors[1] if name.endswith(".qzeros"))
    lying = (tensors[0], tensors[1] | {name: torch.full_like(tensors[1][name], 0x33333333)})
    config, notes = noted(lying, tmp_path)
    assert not config.sym
    said = f"{name} holds 3 to 3, which are not the middle of the codes throughout"
    assert notes == [f"read as asymmetric: its config says sym true, and {said}"]
