"""What codes cannot do is refused in one line that names what can be done."""

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

import qtoolkit as qt
from qtoolkit.errors import UnsupportedModelError
from qtoolkit.kernels import QuantizedEmbedding
from tests.kernels.gptq_layers import Kind, tensors_of


def test_no_adapter_is_merged_into_codes(quantized_folder: Path) -> None:
    model = get_peft_model(qt.load(quantized_folder, device="cpu").model, LoraConfig(task_type="CAUSAL_LM"))
    layer = model.base_model.model.model.layers[0].self_attn.q_proj
    before = layer.base_layer.dequantize()
    for merge in (model.merge_and_unload, model.merge_adapter, layer.merge):
        with pytest.raises(UnsupportedModelError, match=r"qt\.merge\(model, adapter, output=\.\.\.\)") as caught:
            merge()
        assert "\n" not in str(caught.value)
    assert torch.equal(layer.base_layer.dequantize(), before)


def test_an_adapter_that_begins_by_changing_the_base(quantized_folder: Path) -> None:
    model = qt.load(quantized_folder, device="cpu").model
    with pytest.raises(UnsupportedModelError, match=r"init_lora_weights='pissa' would change.*give one of True"):
        get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", init_lora_weights="pissa"))


def test_an_embedding_of_codes() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tokens = QuantizedEmbedding(tensors_of(Kind(8)), dtype=torch.float32)
            self.norm = nn.RMSNorm(1)

    with pytest.raises(UnsupportedModelError, match="tokens is an embedding of integer codes: leave it out"):
        get_peft_model(Model(), LoraConfig(target_modules=["tokens"]))
