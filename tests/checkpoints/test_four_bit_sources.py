"""compressed-tensors' MXFP4 and NVFP4 weights are read as loops over them give; what does not fit is refused."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from qtoolkit.checkpoints import expanded_tensors
from qtoolkit.checkpoints.coded_tensors import expand_tensors
from qtoolkit.checkpoints.expanded_tensors import stored_bytes
from qtoolkit.checkpoints.safetensors import StoredTensor, read_tensors
from qtoolkit.checkpoints.source_codes import source_codes
from qtoolkit.errors import SourceError
from tests.coded_models import FLOAT4, FP8, Tensors, expand_float4, float4_config, float4_parts, write

STEM = "layers.0.q_proj"
NAME = f"{STEM}.weight"
NV, MX = "nvfp4-pack-quantized", "mxfp4-pack-quantized"


def opened(folder: Path, tensors: Tensors, config: dict[str, object]) -> dict[str, StoredTensor]:
    codes = source_codes("the model", config)
    assert codes is not None
    file = write(folder, tensors) / "model.safetensors"
    return expand_tensors("the model", read_tensors(file), codes, torch.bfloat16)


def named(parts: Tensors) -> Tensors:
    return {f"{STEM}.{end}": part for end, part in parts.items()}


@pytest.mark.parametrize("at_once", [1, 200, 2**16])
@pytest.mark.parametrize("layout", FLOAT4)
def test_every_weight_is_the_one_that_is_stored(
    layout: str, at_once: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(expanded_tensors, "AT_ONCE", at_once)
    parts = float4_parts(7, 96, layout)
    beside = {f"{STEM}.input_global_scale": torch.ones(1), "norm.weight": torch.ones(3)}
    weights = opened(tmp_path, named(parts) | beside, float4_config(layout))
    assert set(weights) == {NAME, "norm.weight"}
    assert (weights[NAME].shape, weights[NAME].dtype) == ((7, 96), torch.bfloat16)
    assert torch.equal(weights[NAME][...], expand_float4(parts, layout))
    assert stored_bytes({NAME: weights[NAME]}) == sum(part.nbytes for part in parts.values())


def test_a_journal_of_half_a_job_belongs_to_one_global_scale(tmp_path: Path) -> None:
    parts = named(float4_parts(4, 32, NV))
    seen = [opened(tmp_path, parts, float4_config(NV))[NAME].first_bytes(64)]
    parts[f"{STEM}.weight_global_scale"] = torch.tensor([1.0])
    assert opened(tmp_path, parts, float4_config(NV))[NAME].first_bytes(64) not in seen


E5M2 = {NAME: torch.ones(4, 4).to(torch.float8_e5m2), f"{NAME}_scale": torch.ones(1)}
FLOAT8 = {"v.weight": torch.ones(4, 4).to(FP8), "v.scale": torch.ones(1)}
EXPERT = "layers.0.ffn.experts.0.w1"
DEEPSEEK = {f"{EXPERT}.weight": torch.ones(4, 32).char(), f"{EXPERT}.scale": torch.ones(4, 2).to(torch.float8_e8m0fnu)}
BLOCKS: dict[str, object] = {"quant_method": "fp8", "weight_block_size": [128, 128]}
# What is stored otherwise, what the config says -> what the message says.
WRONG: dict[str, tuple[Tensors, dict[str, object], str]] = {
    "no scales": ({f"{STEM}.weight_scale": torch.empty(0)}, float4_config(NV), "no scales of it"),
    "no global scale": ({f"{STEM}.weight_global_scale": torch.empty(0)}, float4_config(NV), "and not its one"),
    "a flag as a scale": ({f"{STEM}.weight_global_scale": torch.tensor([True])}, float4_config(NV), "and not its one"),
    "global scales": ({f"{STEM}.weight_global_scale": torch.ones(2)}, float4_config(NV), "and not its one"),
    "scales of MXFP4": (named(float4_parts(7, 96, MX)), float4_config(NV), "float8_e4m3fn ones, for each 16 inputs"),
    "scales of NVFP4": (named(float4_parts(7, 96, NV)), float4_config(MX), "uint8 ones, for each 32 inputs"),
    "scales of fewer groups": (
        {f"{STEM}.weight_scale": torch.ones(7, 5).to(FP8)},
        float4_config(NV),
        r"packed in shape \[7, 48\] with float8_e4m3fn scales of shape \[7, 5\]",
    ),
    "another float8": (E5M2, BLOCKS, "holds 'layers.0.q_proj.weight' as float8_e5m2, which is not expanded"),
    "4 bits of fewer groups": (
        FLOAT8 | DEEPSEEK | {f"{EXPERT}.scale": torch.ones(4, 1).to(torch.float8_e8m0fnu)},
        BLOCKS,
        "holds .*w1.weight' as int8, which is not expanded",
    ),
    "4 bits with plain scales": (
        FLOAT8 | DEEPSEEK | {f"{EXPERT}.scale": torch.ones(4, 2)},
        BLOCKS,
        "holds .*w1.weight' as int8, which is not expanded",
    ),
    "half a group of 4 bits": (
        FLOAT8
        | {f"{EXPERT}.weight": torch.ones(4, 24, dtype=torch.int8)}
        | {f"{EXPERT}.scale": torch.ones(4, 1, dtype=torch.uint8)},
        BLOCKS,
        "has .*w1.weight' as int8 of shape .*which is neither .* nor MXFP4",
    ),
}


@pytest.mark.parametrize("scale", [f"{EXPERT}.scale", f"{EXPERT}.weight_scale_inv"])
def test_experts_of_4_bits_beside_float8_are_expanded(scale: str, tmp_path: Path) -> None:
    """As DeepSeek-V4 has them; in float8 no two outputs of `v` differ, and its scale has the same end."""
    parts = float4_parts(7, 96, MX)
    packed = {f"{EXPERT}.weight": parts["weight_packed"].view(torch.int8)}
    tensors = FLOAT8 | packed | {scale: parts["weight_scale"].view(torch.float8_e8m0fnu)}
    weights = opened(tmp_path, tensors, BLOCKS)
    assert set(weights) == {"v.weight", f"{EXPERT}.weight"}
    assert torch.equal(weights[f"{EXPERT}.weight"][...], expand_float4(parts, MX))
    assert torch.equal(weights["v.weight"][...], torch.ones(4, 4, dtype=torch.bfloat16))


@pytest.mark.parametrize(("changed", "config", "said"), WRONG.values(), ids=WRONG)
def test_what_does_not_fit_is_refused_by_headers(
    changed: Tensors, config: dict[str, object], said: str, tmp_path: Path
) -> None:
    tensors = named(float4_parts(7, 96, NV)) if all(name.startswith(f"{STEM}.weight_") for name in changed) else {}
    tensors |= changed
    with pytest.raises(SourceError, match=f"^the model .*{said}") as caught:
        opened(tmp_path, {name: one for name, one in tensors.items() if one.numel()}, config)
    assert "\n" not in str(caught.value)


Change = Callable[[torch.Tensor], torch.Tensor]
NUMBERS: dict[str, tuple[str, str, Change, str]] = {
    "a NaN exponent": (MX, "weight_scale", lambda t: torch.full_like(t, 255), "has a scale that is NaN"),
    "a NaN scale": (NV, "weight_scale", lambda t: (t.float() * torch.nan).to(FP8), "has a scale that is NaN"),
    "an infinite scale": (NV, "weight_global_scale", lambda t: t * torch.inf, "is not positive and finite"),
    "a scale of zero": (NV, "weight_global_scale", torch.zeros_like, "is not positive and finite"),
}


@pytest.mark.parametrize(("layout", "end", "change", "said"), NUMBERS.values(), ids=NUMBERS)
def test_scales_that_are_no_numbers_are_refused(
    layout: str, end: str, change: Change, said: str, tmp_path: Path
) -> None:
    parts = float4_parts(7, 96, layout)
    parts[end] = change(parts[end])
    weight = opened(tmp_path, named(parts), float4_config(layout))[NAME]
    with pytest.raises(SourceError, match=said):
        weight[...]


@pytest.mark.parametrize("change", [{"group_size": 64}, {"symmetric": False}, {"num_bits": 8}, {"type": "int"}])
def test_a_config_of_other_codes_is_no_source(change: dict[str, object]) -> None:
    config = float4_config(NV)
    assert str(source_codes("the model", config)) == "NVFP4"
    config["config_groups"]["group_0"]["weights"] |= change
    assert source_codes("the model", config) is None
    assert source_codes("the model", float4_config(NV) | {"config_groups": {}}) is None
    assert source_codes("the model", float4_config(NV) | {"format": [NV]}) is None
