"""absmax and zero-point as compressed-tensors: plain transformers reads what is written, and so do we."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import qtoolkit as qt
from qtoolkit.errors import CheckpointError
from qtoolkit.kernels import QuantizedLinear
from qtoolkit.publishing.card import make_card
from qtoolkit.publishing.receipt_file import read_receipt
from qtoolkit.requests import PublishRequest
from tests.sample_models import plain_logits, random_model

TOKENS = torch.arange(2, 34).reshape(1, 32)
ASYMMETRIC: dict[str, Any] = {"format": "compressed-tensors"}
MIXED: dict[str, Any] = {"*.down_proj": {"bits": 8}, "*.0.*": {"bits": 8, "granularity": "channel"}}
# Architecture and config; all are read by one process.
CASES: dict[str, tuple[str, Any]] = {
    "tensor": ("llama", qt.AbsMax()),
    "mixed": ("llama_tied", qt.AbsMax(bits=4, granularity="group", rules=MIXED)),
    "full range": ("qwen2", qt.AbsMax(bits=4, granularity="group", group_size=32, full_range=True)),
    "left": ("qwen2", qt.AbsMax(exclude=("lm_head", "*.o_proj"))),
    "head": ("llama", qt.AbsMax(exclude=())),
    "zero points": ("llama", qt.ZeroPoint(bits=4, granularity="group", **ASYMMETRIC)),
    "zero points of a tensor": ("llama", qt.ZeroPoint(**ASYMMETRIC)),
}
READ = """
import sys; sys.modules['qtoolkit'] = None
import torch, transformers
from safetensors.torch import save_file
for folder in sys.argv[1:]:
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    with torch.no_grad():
        save_file({"logits": model(torch.arange(2, 34).reshape(1, 32)).logits}, folder + "/read")
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, qt.QuantizedModel]:
    folder = tmp_path_factory.mktemp("made")
    results = {}
    for name, (architecture, config) in CASES.items():
        # From a folder, whose names of experts are those of the Hub.
        random_model(architecture).save_pretrained(folder / "bases" / name)
        output = folder / name.replace(" ", "_")
        results[name] = qt.quantize(folder / "bases" / name, config, device="cpu", output=output)
    return results


def described(result: qt.QuantizedModel) -> dict[str, Any]:
    assert result.path is not None
    values = json.loads((result.path / "config.json").read_bytes())["quantization_config"]
    assert isinstance(values, dict)
    return values


def test_plain_transformers_reads_every_one(made: dict[str, qt.QuantizedModel]) -> None:
    pytest.importorskip("compressed_tensors")
    folders = [str(result.path) for result in made.values()]
    subprocess.run([sys.executable, "-c", READ, *folders], check=True)
    for name, result in made.items():
        read = load_file(f"{result.path}/read")["logits"].float()
        expected = plain_logits(result.model, TOKENS).float()
        assert (read - expected).norm() <= 0.01 * expected.norm(), name


@pytest.mark.parametrize("name", CASES)
def test_read_again_it_is_the_same(name: str, made: dict[str, qt.QuantizedModel]) -> None:
    result = made[name]
    again = qt.load(result.path, device="cpu")
    assert isinstance(again, qt.QuantizedModel)
    assert again.config == result.config
    assert again.report.method == result.report.method == CASES[name][1].method
    assert torch.equal(plain_logits(again.model, TOKENS), plain_logits(result.model, TOKENS))
    memory = result.memory
    assert memory.predicted_footprint_after == memory.footprint_after == again.memory.footprint_after
    assert memory.disk_after is not None and memory.predicted_disk_after is not None
    assert 0 <= memory.disk_after - memory.predicted_disk_after < 10_000


@pytest.mark.parametrize("full_range", [False, True])
@pytest.mark.parametrize("granularity", ["tensor", "channel", "group"])
def test_codes_are_those_of_the_formula(granularity: str, full_range: bool) -> None:
    """Scales rounded to bfloat16 first, then a code for each weight: slowly, in float64."""
    config = qt.AbsMax(bits=4, granularity=granularity, full_range=full_range)
    result = qt.quantize(random_model("llama"), config, device="cpu")
    weight = random_model("llama").get_parameter("model.layers.1.mlp.up_proj.weight").double()
    layer = result.model.get_submodule("model.layers.1.mlp.up_proj")
    assert isinstance(layer, QuantizedLinear)
    state = layer.state_dict()
    assert state["weight_scale"].dtype == torch.bfloat16
    size = 64  # of a group, and of all inputs of this layer
    scale = state["weight_scale"].double().repeat_interleave(size, dim=1)
    expected = (weight / scale).round().clamp(-8 if full_range else -7, 7) * scale
    torch.testing.assert_close(layer.dequantize().double(), expected, rtol=0, atol=scale.abs().max().item() * 1e-3)
    assert (state["weight_scale"] == state["weight_scale"][0, 0]).all() == (granularity == "tensor")
    codes = layer.stored.decode(state).codes(slice(0, 128))
    assert codes.min() >= (0 if full_range else 1)


def test_each_scheme_names_its_layers(made: dict[str, qt.QuantizedModel]) -> None:
    groups = described(made["mixed"])["config_groups"].values()
    kinds = {(one["weights"]["num_bits"], one["weights"]["group_size"]) for one in groups}
    assert kinds == {(4, 64), (8, 64), (8, None)}
    assert all(target.startswith("re:") for one in groups for target in one["targets"])


def test_layers_that_stay_are_named_as_in_the_file(made: dict[str, qt.QuantizedModel]) -> None:
    left = [f"model.layers.{index}.self_attn.o_proj" for index in range(2)]
    assert described(made["left"])["ignore"] == ["lm_head", *left]
    assert described(made["mixed"])["ignore"] == ["lm_head"]
    assert described(made["head"])["ignore"] == []


def test_zero_points_are_expanded_by_transformers(made: dict[str, qt.QuantizedModel]) -> None:
    assert described(made["zero points"])["run_compressed"] is False
    assert "run_compressed" not in described(made["tensor"])


def test_zero_point_keeps_the_format_of_its_own() -> None:
    """transformers 4.57 fails at zero points of compressed-tensors."""
    assert qt.ZeroPoint().format == "native"
    assert qt.AbsMax().format == "compressed-tensors"
    plan = qt.plan(random_model("llama"), qt.ZeroPoint(**ASYMMETRIC), device="cpu")
    assert any("transformers 4 (zero points)" in note for note in plan.notes)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tensor", "mixed", "zero points"])
def test_a_folder_is_verified(name: str, made: dict[str, qt.QuantizedModel]) -> None:
    (made[name].path / "read").unlink(missing_ok=True)  # type: ignore[operator]
    verification = qt.verify(made[name].path)
    assert verification.passed, verification
    receipt = read_receipt(made[name].path)  # type: ignore[arg-type]
    assert receipt is not None
    card = make_card(receipt, verification, PublishRequest("out", "me/tiny", license="mit"))
    assert "compressed-tensors" in card.data.tags and "import qtoolkit  #" not in card.text


NATIVE: dict[str, tuple[str, Any]] = {
    "a Conv1D": ("gpt2", qt.AbsMax()),
    "experts that transformers merges": ("mixtral", qt.AbsMax(exclude=("lm_head", "experts.*"))),
    "small groups": ("llama", qt.AbsMax(bits=4, granularity="group", group_size=16)),
}


@pytest.mark.parametrize(("architecture", "config"), NATIVE.values(), ids=NATIVE)
def test_what_the_format_does_not_hold_is_native_and_says_so(architecture: str, config: Any) -> None:
    plan = qt.plan(random_model(architecture), config, device="cpu")
    assert plan.settings["format"] == "native"
    assert "format native instead of compressed-tensors" in plan.layers[0].adjusted


def test_a_file_without_the_option_is_native() -> None:
    assert qt.AbsMax.from_file({"bits": 8}).format == "native"


LIES: dict[str, tuple[Any, str]] = {
    "no object": ("absmax", "must be an object with method and options"),
    "other bits": ({"method": "absmax", "options": {"bits": 4}}, "with 4 bits, and its schemes have 8"),
}


@pytest.mark.parametrize(("origin", "said"), LIES.values(), ids=LIES)
def test_an_origin_that_lies(origin: Any, said: str, made: dict[str, qt.QuantizedModel], tmp_path: Path) -> None:
    folder = made["tensor"].path
    assert folder is not None
    for file in folder.iterdir():
        (tmp_path / file.name).symlink_to(file)
    config = json.loads((folder / "config.json").read_bytes())
    config["quantization_config"]["qtoolkit"] = origin
    (tmp_path / "config.json").unlink()
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=said):
        qt.load(tmp_path, device="cpu")
