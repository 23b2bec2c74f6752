"""`model.dequantize()` gives a plain model with the weights that the codes stand for, which transformers saves."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

import qtoolkit as qt
from tests.methods.gptq.jobs import gptq
from tests.sample_models import plain_logits, random_model

TOKENS = torch.arange(2, 34).reshape(1, 32)
WRITTEN: dict[str, Any] = {"calibration": "self", "num_samples": 4, "seq_len": 32}
CASES: dict[str, tuple[str, Any]] = {
    "compressed-tensors": ("qwen2", qt.AbsMax(bits=4, granularity="group")),
    "native Conv1D": ("gpt2", qt.ZeroPoint()),
    "gptq": ("llama", gptq(**WRITTEN)),
    "tied embeddings": ("llama_tied", gptq(format="compressed-tensors", embeddings=8, **WRITTEN)),
    "scaled embeddings": ("gemma3_text", gptq(format="compressed-tensors", embeddings=8, **WRITTEN)),
}


@pytest.mark.parametrize(("architecture", "config"), CASES.values(), ids=CASES)
def test_a_quantized_model_becomes_a_plain_one(architecture: str, config: Any, tmp_path: Path) -> None:
    model = qt.quantize(random_model(architecture, torch.float32), config, device="cpu").model
    expected = plain_logits(model, TOKENS)
    model.dequantize()
    assert not any(type(module).__module__.startswith("qtoolkit") for module in model.modules())
    assert not hasattr(model.config, "quantization_config")
    torch.testing.assert_close(plain_logits(model, TOKENS), expected, rtol=1e-4, atol=1e-4)
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert {name for name, _ in again.named_parameters()} == {
        name for name, _ in random_model(architecture).named_parameters()
    }
    torch.testing.assert_close(plain_logits(again, TOKENS), expected, rtol=1e-4, atol=1e-4)


def test_a_model_that_was_saved_becomes_a_plain_one(tmp_path: Path) -> None:
    # transformers leaves the name of the type in the config that it saved.
    model = qt.quantize(random_model("llama"), qt.W8A8(), device="cpu").model
    model.save_pretrained(tmp_path)
    layer = "model.layers.0.mlp.down_proj"
    expected = model.get_submodule(layer).dequantize().to(torch.bfloat16)
    model.dequantize()
    assert torch.equal(model.get_submodule(layer).weight, expected)
