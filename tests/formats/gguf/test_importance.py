"""Importance of inputs, from a file or a mapping: which blocks it changes, what is told, and what is refused."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch

import qtoolkit as qt
from qtoolkit.checkpoints.imatrix import write_imatrix
from qtoolkit.errors import CheckpointError, ConfigError
from qtoolkit.formats import FileFormat, FilePlanner, get_format
from qtoolkit.models.from_memory import open_loaded
from qtoolkit.records import ignore_progress
from qtoolkit.tensor.block_types import BLOCK_TYPES, quantize_rows
from tests.formats.gguf.small_models import small_model
from tests.sample_models import random_model

EXPERTS, INPUTS, WIDE = 8, 64, 96
EMBEDDING = "token_embd.weight"


@cache
def mixtral() -> Any:
    return small_model("mixtral")


def planner(quant_type: str = "Q4_0", **options: Any) -> FilePlanner:
    """Plan a file of a Mixtral of two layers; options are the importance, or the file of it."""
    format_ = get_format("gguf")
    assert isinstance(format_, FileFormat)
    importance = options.pop("importance", None)
    values = {"quant_type": quant_type, **options}
    return format_.planner(open_loaded(mixtral(), None), values, lambda _: False, lambda _: None, importance=importance)


def importance() -> dict[str, torch.Tensor]:
    """Return another one for each weight and each expert."""
    torch.manual_seed(0)
    shapes: dict[str, tuple[int, ...]] = {"output": (INPUTS,)}
    for layer in range(2):
        shapes |= {f"blk.{layer}.attn_{kind}": (INPUTS,) for kind in ("q", "k", "v", "output")}
        shapes |= {f"blk.{layer}.ffn_{kind}_exps": (EXPERTS, INPUTS) for kind in ("gate", "up")}
        shapes[f"blk.{layer}.ffn_down_exps"] = (EXPERTS, WIDE)
    return {f"{name}.weight": torch.rand(shape) ** 4 + 0.001 for name, shape in shapes.items()}


def imatrix_file(folder: Path, means: Mapping[str, torch.Tensor]) -> Path:
    counts = {name: [8] * (EXPERTS if "_exps" in name else 1) for name in means}
    sums = {name: 8 * mean for name, mean in means.items()}
    write_imatrix(folder / "x.gguf", sums, counts, datasets=["/home/ann/wiki.txt"], chunk_count=7, chunk_size=512)
    return folder / "x.gguf"


def written(plan: FilePlanner, folder: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Write the file of a plan, and return what the `gguf` package reads in it."""
    folder.mkdir()
    file = plan.write(folder, "cpu", ignore_progress)["file"]
    reader = gguf.GGUFReader(folder / file)
    values = {key: field.contents() for key, field in reader.fields.items() if key.startswith("quantize.")}
    return {tensor.name: np.array(tensor.data) for tensor in reader.tensors}, values


def test_each_weight_is_rounded_with_its_own_importance(tmp_path: Path) -> None:
    """Each expert too; a file and a mapping give the same."""
    means = importance()
    blocks, values = written(planner(imatrix=str(imatrix_file(tmp_path, means))), tmp_path / "file")
    layer = mixtral().model.layers[1]
    type_ = BLOCK_TYPES["Q4_0"]
    for kind, weights in (("up", layer.mlp.experts.gate_up_proj[:, WIDE:]), ("down", layer.mlp.experts.down_proj)):
        name = f"blk.1.ffn_{kind}_exps.weight"
        for expert in range(EXPERTS):
            expected = quantize_rows(weights[expert].detach(), type_, means[name][expert])
            assert np.array_equal(blocks[name][expert], expected.numpy()), (name, expert)
    assert values == {
        "quantize.imatrix.file": "x.gguf",
        "quantize.imatrix.dataset": "wiki.txt",
        "quantize.imatrix.entries_count": len(means),
        "quantize.imatrix.chunks_count": 7,
    }
    before, none = written(planner(importance=means), tmp_path / "before")
    assert none == {}
    for name, data in blocks.items():
        assert np.array_equal(before[name], data)
    plain, _ = written(planner(), tmp_path / "plain")
    changed = {name for name, data in blocks.items() if data.shape != plain[name].shape or (data != plain[name]).any()}
    # Of these, llama.cpp stores the others as Q8_0, which takes no importance.
    unweighted = {"output.weight", *(name for name in means if "attn_k" in name or "attn_v" in name)}
    assert changed == {*means} - unweighted


def test_what_it_comes_from_and_what_it_lacks_is_told(tmp_path: Path) -> None:
    """By name; nothing of the norms, which are not rounded."""
    means = importance()
    del means["blk.1.attn_q.weight"]
    means["blk.9.attn_q.weight"] = torch.ones(INPUTS)
    notes = planner(imatrix=str(imatrix_file(tmp_path, means))).file_notes[1:]
    assert notes == (
        "importance weights from x.gguf: wiki.txt, 7 chunks of 512 tokens",
        "the imatrix has nothing on 2 of 11 tensors, which are rounded without: token_embd.weight, blk.1.attn_q.weight",
        "the imatrix has 1 tensors that the file has not: blk.9.attn_q.weight",
    )
    assert planner(importance={}).file_notes == planner("Q4_0").file_notes


def test_types_are_those_that_llama_cpp_chooses_where_importance_is_known() -> None:
    """Of the first weight that ends a block, also where the importance is given later."""
    checkpoint = open_loaded(random_model("llama", num_hidden_layers=8), None)
    format_ = get_format("gguf")
    assert isinstance(format_, FileFormat)
    for known, expected in ((None, "Q4_0"), ({}, "Q4_1")):
        plan = format_.planner(checkpoint, {"quant_type": "Q4_0"}, lambda _: False, lambda _: None, importance=known)
        types = plan.grids([f"model.layers.{layer}.mlp.down_proj" for layer in range(2)])
        assert [type_.name for type_ in types.values()] == [expected, "Q4_0"]


@pytest.mark.parametrize("quant_type", ["F16", "Q8_0"])
def test_a_file_that_importance_cannot_change_is_told(quant_type: str) -> None:
    """llama.cpp says nothing of it."""
    note = "no tensor of the file is rounded by importance: the imatrix changes no block"
    assert planner(quant_type, importance=importance()).file_notes[1:] == (note,)


def test_the_importance_of_another_model_is_refused() -> None:
    """Other widths, another number of experts, other names; of the embedding alone, it is left out, as by llama.cpp."""
    means = importance()
    for name, shape in (("blk.0.attn_q.weight", (32,)), ("blk.1.ffn_up_exps.weight", (7, INPUTS))):
        with pytest.raises(ConfigError, match=f"has {torch.Size(shape).numel()} inputs for {name}, and the model 64"):
            planner(importance={**means, name: torch.ones(shape)})
    with pytest.raises(
        ConfigError, match=r"no tensor of this model, whose first is .*, such as 'blk\.0\.ssm_in\.weight'"
    ):
        planner(importance={"blk.0.ssm_in.weight": torch.ones(64)})
    notes = planner(importance={**means, EMBEDDING: torch.ones(96)}).file_notes
    assert notes == planner(importance=means).file_notes
    flat = {name: one.flatten() for name, one in means.items()}
    assert planner(importance=flat).file_notes == planner(importance=means).file_notes


@pytest.mark.parametrize(
    ("name", "said"), [("missing.gguf", "No such file"), (".", "Is a directory"), ("text.txt", "neither a GGUF file")]
)
def test_a_file_that_is_none_is_refused_by_the_plan(tmp_path: Path, tiny_llama: Path, name: str, said: str) -> None:
    """Before any work."""
    (tmp_path / "text.txt").write_text("no imatrix")
    with pytest.raises(CheckpointError, match=said):
        qt.plan(tiny_llama, qt.GGUF("Q4_0", imatrix=tmp_path / name))
