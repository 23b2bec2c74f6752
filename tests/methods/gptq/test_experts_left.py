"""Experts that stay in one tensor are ignored by the names that vLLM looks up, however a folder was made."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

import qtoolkit as qt
from tests.coded_models import gpt_oss
from tests.methods.gptq.jobs import gptq
from tests.sample_models import random_model

pytestmark = pytest.mark.slow


def matched(folder: Path, name: str) -> bool:
    """Whether a pattern of the folder's `ignore` is of this layer."""
    ignored = json.loads((folder / "config.json").read_text())["quantization_config"]["ignore"]
    return any(re.match(one.removeprefix("re:"), name) for one in ignored if one.startswith("re:"))


def test_gptq_and_a_conversion_say_it(tmp_path: Path) -> None:
    gpt_oss().save_pretrained(tmp_path / "base")
    options: dict[str, Any] = {"calibration": "self", "num_samples": 2, "seq_len": 32, "refine": 0, "qep_alpha": 0}
    options["exclude"] = ("lm_head", "*.experts.*")
    qt.quantize(tmp_path / "base", gptq(format="compressed-tensors", **options), device="cpu", output=tmp_path / "made")
    qt.convert(tmp_path / "made", "gptq", tmp_path / "other")
    qt.convert(tmp_path / "other", "compressed-tensors", tmp_path / "again")
    for folder in ("made", "again"):
        assert matched(tmp_path / folder, "model.layers.0.mlp.experts.0.gate_proj")
        assert not matched(tmp_path / folder, "model.layers.0.self_attn.q_proj")


def test_experts_that_are_quantized_are_not_ignored(tmp_path: Path) -> None:
    options = {"calibration": "self", "num_samples": 2, "seq_len": 32, "refine": 0, "qep_alpha": 0}
    config = gptq(format="compressed-tensors", **options)
    qt.quantize(random_model("mixtral"), config, device="cpu", output=tmp_path / "made")
    qt.convert(tmp_path / "made", "gptq", tmp_path / "other")
    qt.convert(tmp_path / "other", "compressed-tensors", tmp_path / "again")
    for folder in ("made", "again"):
        for layer in ("block_sparse_moe", "mlp"):
            assert not matched(tmp_path / folder, f"model.layers.0.{layer}.experts.0.w1")
