"""Configs of adapters that say what peft would not load, or would compute otherwise: refused in one line, at once."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import save_file
from torch import nn

from qtoolkit.adapters import adapter_patterns
from qtoolkit.adapters.adapter_patterns import pattern_problem
from qtoolkit.adapters.adapter_reading import read_adapter
from qtoolkit.errors import CheckpointError, QToolkitError, UnsupportedModelError

NAMES = ("layers.0.q", "layers.1.q")
DAMAGED, OTHER = CheckpointError, UnsupportedModelError


def adapter(folder: Path, *, rank: int = 4, dtype: torch.dtype = torch.float32, **entries: Any) -> Path:
    """An adapter of two layers of 8 x 16, with some entries in its config."""
    folder.mkdir(exist_ok=True)
    torch.manual_seed(0)
    tensors = {
        f"base_model.model.{name}.lora_{part}.weight": torch.randn(shape).to(dtype)
        for name in NAMES
        for part, shape in (("A", (rank, 16)), ("B", (8, rank)))
    }
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 12, "target_modules": ["q"], **entries}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


LIES: dict[str, tuple[dict[str, Any], type[QToolkitError], str]] = {
    "a text as rank": ({"r": "four"}, DAMAGED, "r='four', which is no rank"),
    "a huge rank": ({"r": 10**30}, DAMAGED, "r=a huge number, which is no rank"),
    "another rank": ({"r": 8}, DAMAGED, "q has matrices of rank 4, and adapter_config.json says 8"),
    "another rank of a layer": ({"rank_pattern": {"0.q": 2}}, DAMAGED, "says 2"),
    "ranks without names": ({"rank_pattern": [1]}, DAMAGED, r"rank_pattern=\[1\], which is no object"),
    "NaN": ({"lora_alpha": float("nan")}, DAMAGED, "lora_alpha=nan, which is no number"),
    "infinity": ({"lora_alpha": float("inf")}, DAMAGED, "lora_alpha=inf"),
    "an integer that is no float": ({"lora_alpha": 10**400}, DAMAGED, "lora_alpha=a huge number"),
    "NaN of a layer": ({"alpha_pattern": {"q": float("nan")}}, DAMAGED, "alpha_pattern=nan"),
    "a regular expression": ({"alpha_pattern": {"layers.[01].q": 48}}, OTHER, "in alpha_pattern: write the names"),
    "layers that are not named": ({"target_modules": ["k"]}, DAMAGED, "matrices of layers.0.q, which .* does not name"),
    "blocks that are not named": ({"layers_to_transform": [0]}, DAMAGED, "matrices of layers.1.q, which"),
    "a number as names": ({"target_modules": 5}, DAMAGED, "target_modules=5, which is no list of names"),
    "PiSSA": ({"init_lora_weights": "pissa"}, OTHER, "init_lora_weights='pissa': its matrices belong to weights"),
    "KaSA": ({"kasa_config": {}}, OTHER, "kasa_config"),
    "activated LoRA": ({"alora_invocation_tokens": [1]}, OTHER, "alora_invocation_tokens"),
    "block-diagonal": ({"use_bdlora": {"nblocks": 2}}, OTHER, "use_bdlora"),
    "routed": ({"arrow_config": {"top_k": 2}}, OTHER, "arrow_config"),
    "Monte Carlo": ({"monteclora_config": {}}, OTHER, "monteclora_config"),
    "groups without an end": (
        {"use_qalora": True, "qalora_group_size": 10**9},
        DAMAGED,
        "which is no number of inputs",
    ),
}


@pytest.mark.parametrize("name", LIES)
def test_lies_are_refused(name: str, tmp_path: Path) -> None:
    entries, error, message = LIES[name]
    with pytest.raises(error, match=message) as caught:
        read_adapter(adapter(tmp_path / "bad", **entries))
    assert "\n" not in str(caught.value)


def test_matrices_that_are_none(tmp_path: Path) -> None:
    folder = adapter(tmp_path / "bad", dtype=torch.int8)
    with pytest.raises(CheckpointError, match=r"matrices of torch\.int8"):
        read_adapter(folder)
    whole = {f"base_model.model.{NAMES[0]}.lora_A.weight": torch.full((4, 16), 1e30)}
    whole[f"base_model.model.{NAMES[0]}.lora_B.weight"] = torch.full((8, 4), 1e30)
    save_file(whole, folder / "adapter_model.safetensors")
    with pytest.raises(CheckpointError, match="holds NaN or infinity, or products do"):
        read_adapter(folder)
    twice = {key.removeprefix("base_model.model."): torch.ones_like(one) for key, one in whole.items()}
    save_file({**whole, **twice}, folder / "adapter_model.safetensors")
    with pytest.raises(CheckpointError, match="names a matrix twice"):
        read_adapter(folder)


@pytest.mark.parametrize(
    "entries",
    [
        {},
        {"use_rslora": True},
        {"alpha_pattern": {"0.q": 48}},
        {"alpha_pattern": {"^layers.1.q": 48, "q": 2}},
        {"rank_pattern": {"layers.0.q": 4}, "r": 4, "lora_alpha": 7},
        {"layers_to_transform": [0, 1], "layers_pattern": "layers"},
    ],
    ids=["alpha", "root", "of an end", "of a whole name", "of ranks", "of blocks"],
)
def test_scaling_is_that_of_peft(entries: dict[str, Any], tmp_path: Path) -> None:
    def model() -> nn.Module:
        torch.manual_seed(1)
        return nn.ModuleDict({"layers": nn.ModuleList(nn.ModuleDict({"q": nn.Linear(16, 8)}) for _ in range(2))})

    options = {"r": 4, "lora_alpha": 12, "target_modules": ["q"], "init_lora_weights": False, **entries}
    get_peft_model(model(), LoraConfig(**options)).save_pretrained(tmp_path / "made")
    merged = PeftModel.from_pretrained(model(), tmp_path / "made").merge_and_unload()
    changes = read_adapter(tmp_path / "made").changes
    for name, plain in model().named_modules():
        if isinstance(plain, nn.Linear):
            expected = merged.get_submodule(name).weight - plain.weight
            assert torch.allclose(changes[name].product(), expected, atol=1e-6)


def test_a_regular_expression_that_takes_forever(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["model.layers.0.self_attn.q_proj", "model"]
    with monkeypatch.context() as patch:
        patch.setattr(adapter_patterns, "_SECONDS", 0.3)
        for key in ("target_modules", "exclude_modules", "layers_pattern"):
            found = pattern_problem({key: "(([a-z0-9_.]+)+)+!"}, names)
            assert found == f"{key} is a regular expression that takes more than 0.3 s"
    assert pattern_problem({"target_modules": "(("}, names).startswith("target_modules is no regular expression")
    assert not pattern_problem({"target_modules": r".*\.(q|v)_proj", "exclude_modules": None}, names)
