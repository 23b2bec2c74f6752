"""What every method must do: predicted bytes are stored bytes, and what is saved is what was made."""

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import PreTrainedModel

import qtoolkit as qt
from qtoolkit.measure.footprint import memory_footprint
from qtoolkit.methods import config_class, get_method
from qtoolkit.models.experts import replace_experts
from tests.sample_models import ARCHITECTURES, random_model

pytestmark = pytest.mark.slow

CONFIGS = {
    "nf4": qt.NF4(),
    "nf4-single": qt.NF4(double_quant=False),
    "fp4": qt.FP4(),
    "int8": qt.Int8(),
    "fp8": qt.FP8(),
    "w8a8": qt.W8A8(),
    "absmax-tensor": qt.AbsMax(),
    "absmax-channel": qt.AbsMax(granularity="channel"),
    "absmax-4bit-group": qt.AbsMax(bits=4, granularity="group", group_size=32),
    "gptq": qt.GPTQ(calibration="self", num_samples=4, seq_len=32, group_size=32),
    "gptq-3bit-desc-act": qt.GPTQ(bits=3, desc_act=True, calibration="self", num_samples=4, seq_len=32, group_size=32),
    "absmax-rules": qt.AbsMax(
        bits=4, granularity="group", rules={"*.down_proj": {"bits": 8}, "*.0.*": {"group_size": 32}}
    ),
    "gptq-rules": qt.GPTQ(
        rules={"*.q_proj": {"bits": 3}, "*.down_proj": {"bits": 8}},
        calibration="self",
        num_samples=4,
        seq_len=32,
        group_size=32,
    ),
    "zero-point-channel": qt.ZeroPoint(granularity="channel"),
    "zero-point-4bit-group": qt.ZeroPoint(bits=4, granularity="group", group_size=32),
}
# Half the widest gap between two levels, as a part of the largest weight that shares the scale. NF4: QLoRA (arXiv
# 2305.14314), appendix E, levels -1 and -0.6962; FP4: levels 2/3 and 1; FP8: levels
# 416/448 and 1; integers: one step of 2 / (codes - 1).
HALF_GAPS = {
    "nf4": 0.1519,
    "fp4": 1 / 6,
    "fp8": 1 / 28,
    "int8": 1 / 254,
    "w8a8": 1 / 254,
    "absmax": 1 / 14,
    "zero_point": 1 / 15,
}
TOKENS = torch.arange(2, 34).reshape(2, 16)


# Every config on a Llama, and each kind of layer of ours and of bitsandbytes on every other architecture.
PAIRS = [("llama", name) for name in CONFIGS] + [
    (architecture, name)
    for architecture in ARCHITECTURES
    if architecture != "llama"
    for name in ("nf4", "int8", "zero-point-4bit-group")
]


@pytest.fixture(scope="module", params=PAIRS, ids=["-".join(pair) for pair in PAIRS])
def pair(request: pytest.FixtureRequest) -> tuple[str, str]:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def architecture(pair: tuple[str, str]) -> str:
    return pair[0]


@pytest.fixture(scope="module")
def result(pair: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> qt.QuantizedModel:
    folder = tmp_path_factory.mktemp(pair[0])
    random_model(pair[0]).save_pretrained(folder / "base")
    return qt.quantize(folder / "base", CONFIGS[pair[1]], device="cpu", output=folder / "quantized")


def test_every_method_is_tested() -> None:
    """But for the one whose result is a file: tests/jobs/test_file_results.py asks the same of it."""
    in_memory = {name for name in qt.available_methods() if not get_method(name).writes_file}
    assert {config.method for config in CONFIGS.values()} == in_memory


def test_predicted_footprint_is_the_measured_one(result: qt.QuantizedModel) -> None:
    assert result.memory.footprint_after == result.memory.predicted_footprint_after
    assert result.memory.footprint_after < result.memory.footprint_before


def test_predicted_disk_size_is_within_the_headers(result: qt.QuantizedModel) -> None:
    """The headers of safetensors are not in the prediction: about 150 bytes a tensor."""
    assert result.path is not None and result.memory.disk_after is not None
    with safe_open(result.path / "model.safetensors", "pt") as file:
        tensors = len(file.keys())
    assert 0 <= result.memory.disk_after - (result.memory.predicted_disk_after or 0) <= 200 * tensors + 100


def test_every_module_is_quantized_or_skipped_with_a_reason(result: qt.QuantizedModel, architecture: str) -> None:
    plain = _source(architecture, result)
    holding = {name for name, module in plain.named_modules() if list(module.parameters(recurse=False))}
    quantized = {layer.name for layer in result.report.layers}
    assert quantized | {layer.name for layer in result.skipped} == holding
    assert all(layer.skipped for layer in result.skipped)
    replaced = {
        name for name in holding if type(result.model.get_submodule(name)) is not type(plain.get_submodule(name))
    }
    assert quantized == replaced


def test_loaded_again_it_gives_the_same_logits(result: qt.QuantizedModel) -> None:
    again = qt.load(result.path, device="cpu")
    assert isinstance(again, qt.QuantizedModel)
    assert again.config.method == result.config.method
    with torch.no_grad():
        assert torch.equal(again.model(TOKENS).logits, result.model(TOKENS).logits)
    assert memory_footprint(again.model) == memory_footprint(result.model)


def test_saved_after_it_ran_it_is_the_same_file(result: qt.QuantizedModel, tmp_path: Path) -> None:
    assert result.path is not None
    first = load_file(result.path / "model.safetensors")
    with torch.no_grad():
        result.model(TOKENS)
    second = load_file(_copy(result).save(tmp_path / "again") / "model.safetensors")
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_saving_does_not_change_the_model(result: qt.QuantizedModel, tmp_path: Path) -> None:
    with torch.no_grad():
        before = result.model(TOKENS).logits
        _copy(result).save(tmp_path / "again")
        assert torch.equal(result.model(TOKENS).logits, before)


def test_no_weight_moves_by_more_than_half_a_gap(result: qt.QuantizedModel, architecture: str) -> None:
    if result.config.method not in HALF_GAPS:
        pytest.skip("its weights move so that outputs move less")
    base = _source(architecture, result)
    # Beside the gap: products in bfloat16, and scales that are quantized themselves.
    bound = HALF_GAPS[result.config.method] + 0.015
    with torch.no_grad():
        for layer in result.report.layers:
            weight = _weight(base.get_submodule(layer.name), layer.shape)
            module = result.model.get_submodule(layer.name)
            output = module(torch.eye(layer.shape[1], dtype=torch.bfloat16))  # [in, out]
            error = (output.T.float() - (0 if module.bias is None else module.bias[:, None]) - weight).abs().max()
            assert error <= bound * weight.abs().max(), layer.name


@pytest.mark.parametrize("method", qt.available_methods())
def test_config_goes_through_a_dict(method: str) -> None:
    config = config_class(method)()
    assert config_class(method).from_dict(config.to_dict()) == config


def _source(architecture: str, result: qt.QuantizedModel) -> PreTrainedModel:
    """The model in full precision, its experts apart where they were quantized."""
    model = random_model(architecture)
    if any(".experts." in layer.name for layer in result.report.layers):
        replace_experts(model)
    return model


def _weight(module: torch.nn.Module, shape: tuple[int, ...]) -> torch.Tensor:
    weight: torch.Tensor = module.weight.detach().float()  # type: ignore[union-attr, operator]
    return weight if tuple(weight.shape) == shape and "Conv1D" not in type(module).__name__ else weight.T


def _copy(result: qt.QuantizedModel) -> qt.QuantizedModel:
    """The same model under a new handle, so that saving it again does not move the shared one's path."""
    return qt.QuantizedModel(result.model, result.tokenizer, result.config, result.report)
