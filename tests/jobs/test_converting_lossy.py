"""Asymmetric codes as MLX, on request: codes and scales are the same numbers, and the largest change is told."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import qtoolkit as qt
from qtoolkit.errors import UnsupportedModelError
from qtoolkit.publishing import read_receipt
from tests.formats.gptq import files
from tests.jobs.converted import weights_of
from tests.jobs.test_converting import logits, shapes_of
from tests.sample_models import random_model

GROUPS: dict[str, Any] = {"bits": 4, "granularity": "group", "group_size": 32}
SOURCES = ["gptq", "zero_point", pytest.param("awq", marks=pytest.mark.slow)]


def write(name: str, folder: Path) -> Path:
    """A folder with asymmetric codes beside the model in full precision, `dense`."""
    if name == "gptq":
        files.write_checkpoint(files.Recipe(sym=False), folder)
    elif name == "awq":
        from tests.formats.awq import awq_files

        awq_files.write_checkpoint(awq_files.Recipe(), folder)
        (folder / "packed").rename(folder / "awq")
    else:
        random_model("llama").save_pretrained(folder / "dense")
        qt.quantize(folder / "dense", qt.ZeroPoint(**GROUPS), output=folder / name, device="cpu")
    return folder / name


@pytest.mark.parametrize("name", SOURCES)
def test_the_largest_change_is_that_of_the_weights(name: str, tmp_path: Path) -> None:
    source = write(name, tmp_path)
    record = qt.convert(source, "mlx", tmp_path / "mlx", lossy=True)
    assert record.lossy and "minima rounded" in str(record)
    shapes = shapes_of(tmp_path / "dense", tmp_path / "mlx")
    # AWQ's own numbers are those of its dense model, which was made from them.
    before = weights_of(source, shapes) if name != "awq" else awq_weights(tmp_path / "dense", shapes)
    after = weights_of(tmp_path / "mlx", shapes)
    moved = {layer: float(np.abs(after[layer] - weight).max()) for layer, weight in before.items()}
    worst = max(moved, key=moved.__getitem__)
    (note,) = [note for note in record.notes if note.startswith("lossy:")]
    found = re.fullmatch(
        r"lossy: the rounded minimum of a group moves weights by (\S+) at most, (\S+)% of .* in (\S+)", note
    )
    assert found is not None and 0 < moved[worst] < 0.05
    assert float(found[1]) == pytest.approx(moved[worst], rel=0.06) and moved[found[3]] == pytest.approx(moved[worst])
    assert note in read_receipt(tmp_path / "mlx").notes  # type: ignore[union-attr]
    # A hundredth of a step at most, in float16 or bfloat16, of 15 steps.
    assert float(found[2]) < 15 * 100 * 2**-8
    assert (logits(tmp_path / "mlx") - logits(source)).abs().max() < 0.05


def awq_weights(dense: Path, shapes: dict[str, Any]) -> dict[str, Any]:
    tensors = load_file(dense / "model.safetensors")
    return {name: tensors[f"{name}.weight"].double().numpy() for name in shapes}


@pytest.mark.slow
def test_rounded_minima_are_no_zero_points(tmp_path: Path) -> None:
    source = write("gptq", tmp_path)
    qt.convert(source, "mlx", tmp_path / "mlx", lossy=True)
    with pytest.raises(UnsupportedModelError, match="rounded minima, and no zero points"):
        qt.convert(tmp_path / "mlx", "gptq", tmp_path / "back")
    assert qt.verify(tmp_path / "mlx").failed == ()


def test_symmetric_codes_lose_nothing_and_say_so(tmp_path: Path) -> None:
    files.write_checkpoint(files.Recipe(), tmp_path)
    record = qt.convert(tmp_path / "gptq", "mlx", tmp_path / "one", lossy=True)
    qt.convert(tmp_path / "gptq", "mlx", tmp_path / "two")
    assert not record.lossy and "lossy: nothing is rounded, since all codes are symmetric" in record.notes
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    assert all(torch.equal(tensor, two[name]) for name, tensor in one.items())


def test_a_minimum_beyond_the_type_is_stored_in_a_wider_one(tmp_path: Path) -> None:
    """Scales that float16 holds, whose product with a zero point it does not."""
    config = qt.ZeroPoint(**GROUPS)
    qt.quantize(random_model("llama", dtype="float16"), config, output=tmp_path / "made", device="cpu")
    file = tmp_path / "made" / "model.safetensors"
    tensors = load_file(file)
    tensors["model.layers.0.mlp.up_proj.scale"].fill_(60000.0)
    save_file(tensors, file, {"format": "pt"})
    record = qt.convert(tmp_path / "made", "mlx", tmp_path / "mlx", lossy=True)
    written = load_file(tmp_path / "mlx" / "model.safetensors")
    assert written["model.layers.0.mlp.up_proj.biases"].isfinite().all()
    assert any("scales are stored in float32, since not all" in note for note in record.notes)
