"""What plain transformers wrote is loaded and saved again by qtoolkit, where transformers 5.23 cannot save it."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

import qtoolkit as qt
from tests.sample_models import random_model

OPTIONS = {"nf4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}, "int8": {"load_in_8bit": True}}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_what_transformers_loaded_is_saved_through_qtoolkit(options: dict[str, Any], tmp_path: Path) -> None:
    random_model("llama").save_pretrained(tmp_path / "plain")
    made = AutoModelForCausalLM.from_pretrained(
        tmp_path / "plain",
        quantization_config=BitsAndBytesConfig(**options),
        device_map="cpu",
        dtype=torch.bfloat16,
    )
    made.save_pretrained(tmp_path / "made")
    if transformers.__version__.startswith("5.23."):
        loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "made", device_map="cpu")
        with pytest.raises(NotImplementedError):
            loaded.save_pretrained(tmp_path / "again")
    qt.load(tmp_path / "made").save(tmp_path / "saved")
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("made", "saved"))
    assert before.keys() == after.keys()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
