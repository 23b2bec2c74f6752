"""FP8 and int8 W8A8: what is written is what the presets of llm-compressor say, and it is the formula's."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

import qtoolkit as qt
from qtoolkit.errors import ConfigError
from qtoolkit.kernels import QuantizedLinear
from qtoolkit.methods import MethodConfig
from qtoolkit.publishing.card import make_card
from qtoolkit.publishing.receipt_file import read_receipt
from qtoolkit.requests import PublishRequest
from tests.coded_models import gpt_oss
from tests.formats.compressed_tensors.byte_files import model
from tests.sample_models import plain_logits, random_model

CONFIGS: dict[str, MethodConfig] = {
    "FP8_DYNAMIC": qt.FP8(),
    "FP8_BLOCK": qt.FP8(granularity="block"),
    "W8A8": qt.W8A8(),
}
TOKENS = torch.arange(2, 34).reshape(1, 32)
UP = "model.layers.1.mlp.up_proj"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, qt.QuantizedModel]:
    folder = tmp_path_factory.mktemp("made")
    model().save_pretrained(folder / "base")
    return {
        name: qt.quantize(folder / "base", config, device="cpu", output=folder / name)
        for name, config in CONFIGS.items()
    }


def described(result: qt.QuantizedModel) -> dict[str, Any]:
    assert result.path is not None
    values = json.loads((result.path / "config.json").read_bytes())["quantization_config"]
    assert isinstance(values, dict)
    return values


@pytest.mark.parametrize("preset", CONFIGS)
def test_the_config_is_that_of_the_preset(preset: str, made: dict[str, qt.QuantizedModel]) -> None:
    pytest.importorskip("compressed_tensors")
    from compressed_tensors.quantization import QuantizationConfig
    from compressed_tensors.quantization.quant_scheme import preset_name_to_scheme

    values = described(made[preset])
    theirs = QuantizationConfig.model_validate(values)
    scheme = theirs.config_groups["group_0"]
    expected = preset_name_to_scheme(preset, ["Linear"])
    for part in ("weights", "input_activations"):
        ours = getattr(scheme, part).model_dump()
        ours.pop("observer", None)
        assert ours == getattr(expected, part).model_dump()
    assert values["format"] == ("int-quantized" if preset == "W8A8" else "float-quantized")
    assert (values["ignore"], scheme.targets) == (["lm_head"], ["Linear"])


@pytest.mark.parametrize("preset", CONFIGS)
def test_weights_are_those_of_the_formula(preset: str, made: dict[str, qt.QuantizedModel]) -> None:
    """Scales rounded to bfloat16 upwards, then the nearest level to each weight: slowly, in float64."""
    weight = model().get_parameter(f"{UP}.weight").double()
    layer = made[preset].model.get_submodule(UP)
    assert isinstance(layer, QuantizedLinear)
    scale = layer.state_dict()["weight_scale"]
    assert scale.dtype == torch.bfloat16
    if preset == "FP8_BLOCK":
        largest = torch.stack(
            [torch.stack([part.abs().max() for part in rows.split(128, 1)]) for rows in weight.split(128)]
        )
        scale = scale.double()
        spread = scale.repeat_interleave(128, 0).repeat_interleave(128, 1)
    else:
        largest = weight.abs().amax(1, keepdim=True)
        spread = scale = scale.double()
    range_ = largest / scale / (127 if preset == "W8A8" else 448)
    assert (range_ <= 1).all() and (range_ > 0.99).all()
    levels = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).double()
    levels = torch.arange(-127.0, 128.0).double() if preset == "W8A8" else levels[levels.isfinite()]
    wanted = (weight / spread).flatten()
    error = torch.cat([(levels - part[:, None]).abs().amin(1) for part in wanted.split(4096)])
    assert ((layer.dequantize().double() - weight).abs() / spread).flatten().sub(error).abs().max() < 1e-4


@pytest.mark.parametrize("preset", CONFIGS)
def test_read_again_it_is_the_same(preset: str, made: dict[str, qt.QuantizedModel]) -> None:
    result = made[preset]
    again = qt.load(result.path, device="cpu")
    assert isinstance(again, qt.QuantizedModel)
    assert again.config == result.config == CONFIGS[preset]
    assert again.report.method == CONFIGS[preset].method
    logits = plain_logits(result.model, TOKENS)
    assert torch.equal(plain_logits(again.model, TOKENS), logits)
    base = plain_logits(model(), TOKENS)
    assert 0 < (logits - base).norm() < 0.1 * base.norm()


@pytest.mark.slow
def test_what_it_is_for_is_told(made: dict[str, qt.QuantizedModel]) -> None:
    """Proven by transformers in a process of its own, through the package compressed-tensors."""
    path = made["FP8_DYNAMIC"].path
    assert path is not None
    verification = qt.verify(path)
    assert verification.passed, verification
    receipt = read_receipt(path)
    assert receipt is not None
    card = make_card(receipt, verification, PublishRequest("out", "me/tiny", license="mit")).text
    assert "inputs of these layers are rounded to 8 bits too" in card
    assert "| vLLM 0.33.0 | yes" in card


def test_layers_that_servers_do_not_take_are_left_with_a_reason() -> None:
    """The small Llama's keys and values have 32 outputs, and no layer blocks of 128."""
    config = qt.FP8(granularity="block")
    with pytest.raises(
        ConfigError, match=r"no layer can be quantized \(\[64, 64\] is no multiple of 128\): granularity"
    ):
        qt.plan(random_model("llama"), config, device="cpu")
    with pytest.raises(ConfigError, match="a Conv1D"):
        qt.plan(random_model("gpt2"), qt.FP8(), device="cpu")
    with pytest.raises(ConfigError, match=r"left \(excluded by name\) stay in one tensor"):
        qt.plan(random_model("mixtral"), qt.W8A8(exclude=("lm_head", "experts.*")), device="cpu")


@pytest.mark.parametrize("reader", ["vllm", "sglang", "transformers", "transformers4"])
@pytest.mark.parametrize("preset", CONFIGS)
def test_a_plan_tells_who_loads_it(preset: str, reader: str) -> None:
    plan = qt.plan(model(), CONFIGS[preset], device="cpu", for_=reader)
    assert plan.reading is not None and plan.reading.loads


def test_a_mixed_unit_is_refused_for_servers() -> None:
    plan = qt.plan(model(), qt.FP8(exclude=("lm_head", "*.k_proj")), device="cpu", for_="vllm")
    assert plan.reading is not None and not plan.reading.loads
    assert "self_attn.qkv_proj, which it joins, are not quantized alike" in plan.reading.why


def test_another_granularity_is_refused() -> None:
    with pytest.raises(ConfigError, match="granularity must be one of 'channel', 'block', got 'tensor'"):
        qt.FP8(granularity="tensor")


def test_experts_in_one_tensor_are_ignored_by_the_names_that_vllm_looks_up(tmp_path: Path) -> None:
    gpt_oss().save_pretrained(tmp_path / "base")
    config = qt.FP8(exclude=("lm_head", "experts.*"))
    result = qt.quantize(tmp_path / "base", config, device="cpu", output=tmp_path / "out")
    patterns = [one.removeprefix("re:") for one in described(result)["ignore"] if one.startswith("re:")]
    assert any(re.match(one, "model.layers.0.mlp.experts.0.gate_proj") for one in patterns)
    assert not any(re.match(one, "model.layers.0.self_attn.q_proj") for one in patterns)
    assert torch.equal(
        plain_logits(qt.load(result.path, device="cpu").model, TOKENS), plain_logits(result.model, TOKENS)
    )
