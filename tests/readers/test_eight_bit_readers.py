"""transformers of both ages reads FP8 and int8 W8A8 without qtoolkit: the same weights, and inputs rounded as ours."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, PreTrainedModel

import qtoolkit as qt
from qtoolkit.kernels import QuantizedLinear
from tests.formats.compressed_tensors.byte_files import model
from tests.sample_models import plain_logits

pytest.importorskip("compressed_tensors")
pytestmark = pytest.mark.slow
TRANSFORMERS_4 = Path(__file__).parent.parent.parent / ".venv-transformers-4" / "bin" / "python"
CONFIGS = {"channel": qt.FP8(), "block": qt.FP8(granularity="block"), "int": qt.W8A8()}
TOKENS = torch.arange(2, 34).reshape(1, 32)
READ = """
import sys; sys.modules["qtoolkit"] = None
import torch, transformers
from safetensors.torch import save_file
for folder in sys.argv[1:]:
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    with torch.no_grad():
        logits = model(torch.arange(2, 34).reshape(1, 32)).logits
    weights = {name: layer.weight for name, layer in model.named_modules() if name.endswith("_proj")}
    save_file({"logits": logits, **weights}, folder + "/read")
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, qt.QuantizedModel]:
    """In float32, whose scales are exact: readers round inputs by the same numbers."""
    folder = tmp_path_factory.mktemp("eight-bits")
    model().float().save_pretrained(folder / "base")
    return {
        name: qt.quantize(folder / "base", config, device="cpu", output=folder / name)
        for name, config in CONFIGS.items()
    }


@pytest.fixture(scope="module", params=[sys.executable, TRANSFORMERS_4], ids=["this", "transformers 4"])
def read(request: pytest.FixtureRequest, made: dict[str, qt.QuantizedModel]) -> dict[str, Any]:
    """What plain transformers has in its layers and computes, by the names of the folders."""
    if not Path(request.param).exists():
        pytest.skip("make .venv-transformers-4/.ready")
    folders = {name: str(result.path) for name, result in made.items()}
    # The environment's own packages alone.
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    subprocess.run([str(request.param), "-c", READ, *folders.values()], check=True, env=environment)
    return {name: load_file(f"{folder}/read") for name, folder in folders.items()}


@pytest.mark.parametrize("name", CONFIGS)
def test_every_weight_is_bit_for_bit_ours(name: str, read: Any, made: dict[str, qt.QuantizedModel]) -> None:
    layers = {key: one for key, one in made[name].model.named_modules() if isinstance(one, QuantizedLinear)}
    assert len(layers) == 14
    for key, layer in layers.items():
        assert torch.equal(read[name][key], layer.dequantize()), key


def rounded(name: str, x: torch.Tensor) -> torch.Tensor:
    """Inputs x[..., in] as the package rounds them: int8 by half of the range of its codes, 127.5."""
    groups = x.unflatten(-1, (-1, 128 if name == "block" else x.shape[-1]))  # [..., groups, inputs that share a scale]
    scale = groups.abs().amax(-1, keepdim=True) / (127.5 if name == "int" else 448)
    levels = groups / scale
    levels = levels.round().clamp(-128, 127) if name == "int" else levels.to(torch.float8_e4m3fn).float()
    return (levels * scale).flatten(-2)


def with_weights_of(result: qt.QuantizedModel) -> PreTrainedModel:
    """A plain model with the weights that a result stands for, opened as the readers open theirs."""
    assert result.path is not None
    plain = AutoModelForCausalLM.from_pretrained(result.path.parent / "base", dtype="auto")
    for key, layer in result.model.named_modules():
        if isinstance(layer, QuantizedLinear):
            plain.get_submodule(key).weight = torch.nn.Parameter(layer.dequantize())
    return plain


@pytest.mark.parametrize("name", CONFIGS)
def test_logits_are_those_of_rounded_inputs_and_expanded_weights(name: str, read: Any, made: Any) -> None:
    """An input between two levels falls to the other one by the last bit, and a small model makes 5 to 12 % of that.

    So the very order of the readers' products is compared with: weights are expanded, then multiplied.
    """
    plain = with_weights_of(made[name])
    unrounded = plain_logits(plain, TOKENS)
    for layer in (one for key, one in plain.named_modules() if key.endswith("_proj")):
        layer.register_forward_pre_hook(lambda _, inputs: (rounded(name, inputs[0]),))
    ours = plain_logits(plain, TOKENS)
    deviation = (ours - plain_logits(model().float(), TOKENS)).norm()
    assert (read[name]["logits"] - ours).norm() <= 0.02 * deviation
    assert (unrounded - ours).norm() > 0.3 * deviation


@pytest.mark.parametrize("name", ["channel", "block"])
def test_a_layer_of_ours_computes_the_same_of_the_same_inputs(name: str, made: Any) -> None:
    """Apart from the order of the products: with a scale an output, the sums are scaled, and not the weights."""
    plain = with_weights_of(made[name])
    for key, layer in made[name].model.named_modules():
        if isinstance(layer, QuantizedLinear):
            inputs = torch.randn(8, layer.in_features, generator=torch.Generator().manual_seed(1))
            expected = plain.get_submodule(key)(rounded(name, inputs))
            assert (layer(inputs) - expected).norm() <= 1e-6 * expected.norm(), key
