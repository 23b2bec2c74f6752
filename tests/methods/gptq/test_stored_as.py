"""The same codes in every format that holds them, and formats that do not."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import qtoolkit as qt
from qtoolkit.errors import ConfigError
from qtoolkit.formats import get_grouped_format
from qtoolkit.formats.gptq.tensors import WIDTHS
from qtoolkit.kernels import QuantizedLinear
from qtoolkit.publishing.card import make_card
from qtoolkit.publishing.receipt_file import read_receipt
from qtoolkit.requests import PublishRequest
from qtoolkit.tensor.int32_packing import WORD_BITS
from tests.methods.gptq.jobs import gptq
from tests.sample_models import random_model

pytestmark = pytest.mark.slow

# Text that the model writes itself.
WRITTEN: dict[str, Any] = {"calibration": "self", "num_samples": 4, "seq_len": 32}
FORMATS = ("gptq", "compressed-tensors", "mlx")


def weights_of(result: qt.QuantizedModel) -> dict[str, torch.Tensor]:
    modules = result.model.named_modules()
    return {name: layer.dequantize().double() for name, layer in modules if isinstance(layer, QuantizedLinear)}


@pytest.mark.parametrize("sym", [True, False], ids=["sym", "asym"])
def test_codes_are_the_same_whatever_the_format(sym: bool, tmp_path: Path) -> None:
    """In float16, a type in which both store scales; after the folder was read again."""
    options: dict[str, Any] = {"sym": sym, "rules": {"*.down_proj": {"bits": 8}, "*.o_proj": {"bits": 3}}}
    read = []
    # MLX holds symmetric codes alone.
    for name in FORMATS if sym else FORMATS[:2]:
        model = random_model("llama", torch.float16)
        made = qt.quantize(model, gptq(format=name, **WRITTEN, **options), device="cpu")
        made.save(tmp_path / name)
        result = qt.load(tmp_path / name, device="cpu")
        assert isinstance(result, qt.QuantizedModel)
        assert result.config.of("model.layers.0.mlp.down_proj").bits == 8  # type: ignore[attr-defined]
        assert getattr(result.config, "format") == name  # noqa: B009
        read.append(weights_of(result))
    assert len(read[0]) == 14
    for other in read[1:]:
        assert other.keys() == read[0].keys()
        assert all(torch.equal(other[name], weight) for name, weight in read[0].items())


@pytest.mark.parametrize("bits", [5, pytest.param(6, marks=pytest.mark.long)])
def test_the_widths_of_one_format_alone(bits: int, tmp_path: Path) -> None:
    """5 and 6 bits lie between their neighbours, as planned to the byte, and verified."""
    errors = []
    for count in (bits - 1, bits):
        model = random_model("llama")
        config = gptq(bits=count, format="compressed-tensors", **WRITTEN)
        result = qt.quantize(model, config, device="cpu", output=tmp_path / str(count))
        memory = result.memory
        assert memory.predicted_footprint_after == memory.footprint_after
        assert result.report.calibration is not None
        errors.append(sum(layer.error for layer in result.report.calibration.layers))
    assert 0.15 < errors[1] / errors[0] < 0.35
    described = json.loads((tmp_path / str(bits) / "config.json").read_text())["quantization_config"]
    assert described["quant_method"] == "compressed-tensors"
    assert described["config_groups"]["group_0"]["weights"]["num_bits"] == bits
    assert described["ignore"] == ["lm_head"]


@pytest.mark.parametrize("architecture", ["llama", pytest.param("gpt_neox", marks=pytest.mark.long)])
def test_plain_transformers_reads_it_with_the_package_alone(architecture: str, tmp_path: Path) -> None:
    """The package expands the codes in a hook of the model's call, which a verification must not pass by.

    The head of GPT-NeoX has another name in files than in the model, and is not quantized.
    """
    pytest.importorskip("compressed_tensors")
    config = gptq(format="compressed-tensors", bits=5, **WRITTEN)
    qt.quantize(random_model(architecture, vocab_size=512), config, device="cpu", output=tmp_path / "out")
    verification = qt.verify(tmp_path / "out")
    assert verification.passed, verification
    (loads,) = (check for check in verification.checks if check.name == "loads in transformers")
    assert "through compressed_tensors" in str(loads)


@pytest.mark.slow
def test_a_folder_is_verified_and_described(tmp_path: Path) -> None:
    """By transformers once qtoolkit is imported, whether or not the package compressed-tensors is installed."""
    rules = {"*.down_proj": {"bits": 6}, "*.v_proj": {"bits": 5}}
    config = gptq(format="compressed-tensors", rules=rules, embeddings=8, **WRITTEN)
    qt.quantize(random_model("llama_tied"), config, device="cpu", output=tmp_path / "out")
    verification = qt.verify(tmp_path / "out")
    assert verification.passed, verification
    checks = {check.name: check.value for check in verification.checks}
    assert checks["quantization config"] == "compressed-tensors, method gptq"
    described = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]
    assert [len(group["targets"]) for group in described["config_groups"].values()] == [1, 1, 1, 2]
    receipt = read_receipt(tmp_path / "out")
    assert receipt is not None
    card = make_card(receipt, verification, PublishRequest("out", "me/tiny", license="mit"))
    assert "compressed-tensors" in card.data.tags
    assert "transformers reads them once qtoolkit is imported" in card.text and "import qtoolkit" in card.text
    assert "qtoolkit" in checks["a program loads it"] and "not in transformers, vLLM" in checks["a program loads it"]


REFUSED = {
    "5 bits": (
        {"bits": 5},
        r"format 'gptq' holds 2, 3, 4 or 8 bits, not 5: give format='compressed-tensors' or format='mlx'$",
    ),
    "a rule of 6 bits": ({"rules": {"*.v_proj": {"bits": 6}}}, r"rules\['\*\.v_proj'\] of GPTQ: format 'gptq' holds"),
    "desc_act": ({"format": "compressed-tensors", "desc_act": True}, "desc_act=True is not written as"),
    "gptq_v2": ({"format": "compressed-tensors", "checkpoint_format": "gptq_v2"}, "is no option of format"),
    "optimum": ({"format": "compressed-tensors", "engine": "optimum"}, "optimum writes 'gptq' alone"),
    "mlx, asymmetric": (
        {"format": "mlx", "sym": False},
        "minimum of a group is rounded: give lossy=True, symmetric codes, or format",
    ),
    "mlx, one group": (
        {"format": "mlx", "group_size": -1},
        "holds groups of 32, 64 or 128 inputs, not all in one: give",
    ),
    "mlx, desc_act": ({"format": "mlx", "desc_act": True}, "desc_act=True is not written as mlx"),
    "mlx, gptq_v2": ({"format": "mlx", "checkpoint_format": "gptq_v2"}, "is no option of format 'mlx'"),
    "embeddings of 7 bits": ({"format": "mlx", "embeddings": 7}, "no embeddings of 7 bits: leave embeddings out$"),
    "no such format": ({"format": "mxl"}, "format must be one of 'gptq', 'compressed-tensors', 'mlx', got 'mxl'"),
}


@pytest.mark.parametrize(("options", "said"), REFUSED.values(), ids=REFUSED)
def test_what_a_format_does_not_hold(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        qt.GPTQ(**options)


@pytest.mark.parametrize("name", FORMATS[1:])
def test_layers_that_only_one_format_holds(name: str) -> None:
    """Readers of the others know no Conv1D."""
    with pytest.raises(qt.QToolkitError, match="Conv1D"):
        qt.plan(random_model("gpt2"), qt.GPTQ(format=name), device="cpu")


def test_groups_that_a_format_does_not_have_are_made_smaller() -> None:
    plan = qt.plan(random_model("llama"), qt.GPTQ(format="mlx", group_size=512), device="cpu")
    assert plan.layers
    assert "group_size" in str(plan)
    assert qt.plan(random_model("gpt2"), qt.GPTQ(), device="cpu").layers


def test_widths_are_those_that_tensors_can_have() -> None:
    assert get_grouped_format(qt.GPTQ()).widths == WIDTHS
    assert get_grouped_format(qt.GPTQ(format="compressed-tensors")).widths == WORD_BITS


def test_a_target_is_met_with_the_widths_that_the_format_holds() -> None:
    assert qt.GPTQ(format="compressed-tensors").choices_to_give() == (2, 3, 4, 5, 6, 8)
    assert qt.GPTQ().choices_to_give() == (2, 3, 4, 8)
    assert qt.GPTQ(sym=False, full_range=False).choices_to_give() == (2, 3, 4, 8)
    # Perplexity 992 with 2 bits and scales of one sign, of SmolLM2-135M.
    assert qt.GPTQ(full_range=False).choices_to_give() == (3, 4, 8)
