"""What other readers of a GPTQ folder would misread is told: they take bits and groups from the config alone."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from qtoolkit.formats import get_format
from tests.formats.gptq.files import Recipe, Tensors, write, write_checkpoint

LAYER = "model.layers.0.mlp.up_proj"  # [128, 64] in groups of 32


@pytest.fixture(scope="module")
def tensors(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Tensors]:
    folder = tmp_path_factory.mktemp("sound")
    return folder / "gptq", write_checkpoint(Recipe(), folder)


def problems(folder: Path, **changes: Any) -> list[str]:
    config = json.loads((folder / "config.json").read_text())
    values = config["quantization_config"] | changes
    return list(get_format("gptq").problems(folder, values))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"bits": 8}, "has 4 bits in the file, and 8 in config.json"),
        ({"group_size": 64}, "has 2 groups in the file, and 1 by config.json"),
        ({"group_size": -1}, "has 2 groups in the file, and 1 by config.json"),
        ({"dynamic": {rf"+:{LAYER}": {"bits": 8}}}, "has 4 bits in the file, and 8 in config.json"),
        ({"dynamic": {r"+:.*\.up_proj": {"group_size": 64}}}, "has 2 groups in the file, and 1 by config.json"),
        ({"dynamic": {r"-:.*\.up_proj": {}}}, "is quantized in the file, and not in config.json"),
    ],
)
def test_a_config_that_says_otherwise(tensors: tuple[Path, Tensors], changes: dict[str, Any], said: str) -> None:
    assert f"{LAYER} {said}" in problems(tensors[0], **changes)


def test_a_sound_folder_has_none(tensors: tuple[Path, Tensors]) -> None:
    assert problems(tensors[0]) == []
    assert problems(tensors[0], dynamic={"(": {"bits": 8}, r"+:.*\.up_proj": {"bits": 4}, ".*": {}}) == []


def test_groups_in_order_of_activation_must_be_told(tensors: tuple[Path, Tensors], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((tensors[0] / "config.json").read_text())
    index = torch.arange(64).flip(0).int() // 32
    write(tmp_path, tensors[1] | {f"{LAYER}.g_idx": index}, Recipe().config)
    (only,) = problems(tmp_path)
    assert only == f"{LAYER} has its groups in order of activation, and config.json says desc_act false"
    assert problems(tmp_path, desc_act=True) == []
