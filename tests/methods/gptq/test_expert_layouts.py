"""GPTQ takes experts that a checkpoint keeps in one tensor, and its result is read back as it was made."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

import qtoolkit as qt
from qtoolkit.models.experts import experts_in_one_tensor
from tests.coded_models import gpt_oss, store_as_mxfp4

pytestmark = pytest.mark.slow

TOKENS = torch.arange(2, 34).reshape(2, 16)  # [32] -> [2, 16]
CONFIG = qt.GPTQ(calibration="self", num_samples=4, seq_len=32, group_size=32, refine=0, qep_alpha=0)
# Each token is sent to all experts: what quantizing changes in routers would hide what it changes in experts.
COMMON = {
    "vocab_size": 128,
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_local_experts": 3,
    "num_experts_per_tok": 3,
    "bos_token_id": 1,
    "pad_token_id": 0,
    "eos_token_id": 2,
}
KINDS: dict[str, dict[str, Any]] = {
    "granitemoe": COMMON | {"attention_multiplier": 0.25},
    "llama4_text": COMMON | {"head_dim": 16, "intermediate_size_mlp": 64},
    "jetmoe": COMMON | {"kv_channels": 16},
    "dbrx": {
        "d_model": 64,
        "n_heads": 4,
        "n_layers": 2,
        "vocab_size": 128,
        "max_seq_len": 64,
        "ffn_config": {"ffn_hidden_size": 64, "moe_num_experts": 3, "moe_top_k": 3},
        "attn_config": {"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 10_000.0},
    },
}


def mixture(kind: str) -> PreTrainedModel:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIG_MAPPING[kind](**KINDS[kind]), dtype=torch.float32)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5)
    return model.to(torch.bfloat16).eval()  # type: ignore[no-any-return]


@pytest.mark.parametrize("kind", KINDS)
def test_all_experts_are_quantized_and_read_back(kind: str, tmp_path: Path) -> None:
    model = mixture(kind)
    model.save_pretrained(tmp_path / "base")
    made = qt.quantize(tmp_path / "base", CONFIG, device="cpu", output=tmp_path / "made")
    assert not [layer for layer in made.report.skipped if "experts" in layer.skipped]
    assert made.memory.footprint_after == made.memory.predicted_footprint_after
    again = qt.load(tmp_path / "made", device="cpu")
    with torch.no_grad():
        logits, exact = made.model(TOKENS).logits, model(TOKENS).logits
        assert torch.equal(again.model(TOKENS).logits, logits)
    assert (logits - exact).norm() < 0.3 * exact.norm()


def test_llama_4_is_written_in_a_form_that_transformers_has_modules_for(tmp_path: Path) -> None:
    config = qt.GPTQ(**{**CONFIG.to_dict(), "format": "compressed-tensors", "calibration": "self"})
    made = qt.quantize(mixture("llama4_text"), config, device="cpu", output=tmp_path / "made")
    again = qt.load(tmp_path / "made", device="cpu")
    with torch.no_grad():
        torch.testing.assert_close(again.model(TOKENS).logits, made.model(TOKENS).logits)


def test_experts_that_are_excluded_stay_in_their_tensor(tmp_path: Path) -> None:
    config = qt.GPTQ(**{**CONFIG.to_dict(), "exclude": ("*.experts.*", "lm_head"), "calibration": "self"})
    made = qt.quantize(mixture("granitemoe"), config, device="cpu", output=tmp_path / "made")
    assert len(experts_in_one_tensor(made.model)) == 2
    again = qt.load(tmp_path / "made", device="cpu")
    with torch.no_grad():
        assert torch.equal(again.model(TOKENS).logits, made.model(TOKENS).logits)


def test_gpt_oss_in_mxfp4_is_expanded_expert_by_expert(tmp_path: Path) -> None:
    model = gpt_oss()
    store_as_mxfp4(model, tmp_path / "base")
    made = qt.quantize(tmp_path / "base", CONFIG, device="cpu", output=tmp_path / "made")
    names = [layer.name for layer in made.report.layers]
    assert "model.layers.0.mlp.experts.0.gate_proj" in names
    again = qt.load(tmp_path / "made", device="cpu")
    with torch.no_grad():
        assert torch.equal(again.model(TOKENS).logits, made.model(TOKENS).logits)
