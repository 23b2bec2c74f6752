"""What GPTQ writes as MLX: planned to the byte, verified, described on its card, its config as mlx-lm reads it."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import qtoolkit as qt
from qtoolkit.measure.footprint import memory_footprint
from qtoolkit.publishing.card import make_card
from qtoolkit.publishing.receipt_file import read_receipt
from qtoolkit.requests import PublishRequest
from tests.methods.gptq.jobs import gptq
from tests.sample_models import plain_logits, random_model

RULES = {"*.down_proj": {"bits": 8}, "*.0.*.v_proj": {"bits": 5}}
CONFIG = gptq(
    format="mlx",
    bits=3,
    rules=RULES,
    embeddings=8,
    calibration="self",
    num_samples=2,
    seq_len=32,
    refine=0,
    qep_alpha=0,
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("written") / "out"
    qt.quantize(random_model("llama_tied"), CONFIG, device="cpu", output=folder)
    return folder


def test_every_byte_is_planned(made: Path) -> None:
    plan = qt.plan(random_model("llama_tied"), CONFIG, device="cpu")
    result = qt.load(made, device="cpu")
    assert isinstance(result, qt.QuantizedModel)
    assert plan.footprint_after == memory_footprint(result.model)
    tensors = load_file(made / "model.safetensors")
    assert plan.disk_after == sum(tensor.nbytes for tensor in tensors.values())
    assert "lm_head.weight" not in tensors


def test_the_config_says_it_to_mlx_and_to_transformers(made: Path) -> None:
    config = json.loads((made / "config.json").read_text())
    eight = {"group_size": 32, "bits": 8}
    assert config["quantization"] == {
        "group_size": 32,
        "bits": 3,
        "mode": "affine",
        "model.layers.0.mlp.down_proj": eight,
        "model.layers.1.mlp.down_proj": eight,
        "model.layers.0.self_attn.v_proj": {"group_size": 32, "bits": 5},
        # Embeddings have groups of their own.
        "model.embed_tokens": {"group_size": 64, "bits": 8},
        "lm_head": {"group_size": 64, "bits": 8},
    }
    assert config["quantization_config"] == {**config["quantization"], "quant_method": "mlx"}


def test_read_again_it_is_the_same_recipe(made: Path) -> None:
    result = qt.load(made, device="cpu")
    assert isinstance(result, qt.QuantizedModel)
    config = result.config
    assert isinstance(config, qt.GPTQ)
    assert (config.format, config.bits, config.group_size, config.embeddings) == ("mlx", 3, 32, 8)
    assert config.of("model.layers.0.self_attn.v_proj").bits == 5  # type: ignore[attr-defined]
    assert config.of("model.layers.1.self_attn.v_proj").bits == 3  # type: ignore[attr-defined]


def test_transformers_computes_the_same_once_qtoolkit_is_imported(made: Path) -> None:
    tokens = torch.arange(2, 34)[None]
    theirs = AutoModelForCausalLM.from_pretrained(made, dtype=torch.float32)
    ours = qt.load(made, device="cpu", dtype="float32")
    assert torch.equal(plain_logits(theirs, tokens), plain_logits(ours.model, tokens))


@pytest.mark.slow
def test_a_folder_is_verified_and_described(made: Path) -> None:
    verification = qt.verify(made)
    assert verification.passed, verification
    checks = {check.name: check.value for check in verification.checks}
    assert checks["quantization config"] == "mlx, method gptq"
    assert "once qtoolkit is imported" in str(checks["loads in transformers"])
    receipt = read_receipt(made)
    assert receipt is not None
    card = make_card(receipt, verification, PublishRequest("out", "me/tiny", license="mit"))
    assert card.data.library_name == "mlx"
    assert card.data.tags[0] == "mlx"
    assert "`mlx_lm.generate --model`" in card.text and "import qtoolkit" in card.text
