"""Weights stored as FP8 and MXFP4 are read as loops over them give, some rows at a time; others are refused."""

from pathlib import Path

import pytest
import torch

from qtoolkit.checkpoints import expanded_tensors
from qtoolkit.checkpoints.coded_tensors import expand_tensors
from qtoolkit.checkpoints.expanded_tensors import expanding_bytes, stored_bytes
from qtoolkit.checkpoints.safetensors import StoredTensor, read_tensors
from qtoolkit.checkpoints.source_codes import source_codes
from qtoolkit.errors import CheckpointError, SourceError
from tests.coded_models import FP8, Tensors, expand_blocks, expand_nibbles, float8_blocks, write

NAME = "layers.0.q_proj.weight"
BLOCKS = {"quant_method": "fp8", "weight_block_size": [16, 8]}
WITHOUT_BLOCKS = {"quant_method": "fp8"}
MXFP4 = {"quant_method": "mxfp4"}
EXPERTS = "layers.0.experts.down_proj"
BFLOAT16 = torch.bfloat16


def opened(folder: Path, tensors: Tensors, config: dict[str, object]) -> dict[str, StoredTensor]:
    codes = source_codes("the model", config)
    assert codes is not None
    return expand_tensors("the model", read_tensors(write(folder, tensors) / "model.safetensors"), codes, BFLOAT16)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def in_blocks(name: str = NAME, out: int = 40, inputs: int = 20) -> Tensors:
    codes, scales = float8_blocks(random(out, inputs), (16, 8))
    return {name: codes, f"{name}_scale_inv": scales}


@pytest.mark.parametrize("at_once", [1, 2**16])
@pytest.mark.parametrize("shape", [(32, 16), (40, 20), (3, 5)])
def test_blocks_of_which_the_last_are_smaller(
    shape: tuple[int, int], at_once: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(expanded_tensors, "AT_ONCE", at_once)
    tensors = in_blocks(out=shape[0], inputs=shape[1])
    weights = opened(tmp_path, tensors, BLOCKS)
    expected = expand_blocks(tensors[NAME], tensors[f"{NAME}_scale_inv"], (16, 8))
    assert list(weights) == [NAME]
    assert (weights[NAME].shape, weights[NAME].dtype, weights[NAME].nbytes) == (shape, BFLOAT16, expected.nbytes)
    assert torch.equal(weights[NAME][...], expected)
    assert torch.equal(weights[NAME][1:3, 2], expected[1:3, 2])


@pytest.mark.parametrize("shape", [(), (1,), (1, 1), (12,), (12, 1)])
def test_one_scale_or_one_for_each_output(shape: tuple[int, ...], tmp_path: Path) -> None:
    codes, scales = random(12, 10).to(FP8), 0.01 + random(*shape).abs()
    weights = opened(tmp_path, {NAME: codes, f"{NAME}_scale": scales}, WITHOUT_BLOCKS)
    expected = (codes.double() * scales.double().reshape(-1, 1)).to(BFLOAT16)
    assert torch.equal(weights[NAME][...], expected)


def test_each_expert_has_blocks_of_its_own(tmp_path: Path) -> None:
    parts = [float8_blocks(random(20, 12, seed=seed), (16, 8)) for seed in range(3)]
    codes, scales = (torch.stack(column) for column in zip(*parts, strict=True))
    weights = opened(tmp_path, {EXPERTS: codes, f"{EXPERTS}_scale_inv": scales}, BLOCKS)
    expected = torch.stack([expand_blocks(*part, (16, 8)) for part in parts])
    assert torch.equal(weights[EXPERTS][...], expected)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float8_e8m0fnu, BFLOAT16])
def test_scales_that_are_powers_of_two(dtype: torch.dtype, tmp_path: Path) -> None:
    codes = random(16, 16).to(FP8)
    exponents = torch.tensor([[120, 130]], dtype=torch.uint8)
    powers = 2.0 ** (exponents.double() - 127)
    scales = powers.to(dtype) if dtype == BFLOAT16 else exponents.view(dtype)
    weights = opened(tmp_path, {NAME: codes, f"{NAME}_scale_inv": scales}, BLOCKS)
    assert torch.equal(weights[NAME][...], expand_blocks(codes, powers, (16, 8)))


@pytest.mark.parametrize("at_once", [1, 2**16])
def test_mxfp4_of_experts(at_once: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expanded_tensors, "AT_ONCE", at_once)
    generator = torch.Generator().manual_seed(0)
    blocks = torch.randint(256, (2, 6, 3, 16), generator=generator, dtype=torch.uint8)
    exponents = torch.randint(100, 140, (2, 6, 3), generator=generator, dtype=torch.uint8)
    weights = opened(tmp_path, {f"{EXPERTS}_blocks": blocks, f"{EXPERTS}_scales": exponents}, MXFP4)
    assert list(weights) == [EXPERTS]
    assert weights[EXPERTS].shape == (2, 96, 6)
    assert torch.equal(weights[EXPERTS][...], expand_nibbles(blocks, exponents))


def test_everything_else_is_as_it_was_and_the_scales_of_activations_are_gone(tmp_path: Path) -> None:
    others = {"norm.weight": random(8).to(BFLOAT16), "gate.bias": random(8), "mask": torch.ones(2, dtype=torch.bool)}
    gone = {"layers.0.q_proj.input_scale": random(1), "layers.0.k_proj.k_scale": random(1)}
    weights = opened(tmp_path, in_blocks() | others | gone, BLOCKS)
    assert set(weights) == {NAME, *others}
    for name, tensor in others.items():
        assert torch.equal(weights[name][...], tensor)


def test_bytes_are_those_of_the_file_and_memory_is_that_of_some_rows(tmp_path: Path) -> None:
    weights = opened(tmp_path, in_blocks() | {"norm.weight": random(8)}, BLOCKS)
    assert stored_bytes(weights) == 40 * 20 + 4 * 3 * 3 + 4 * 8
    assert 40 * 20 < expanding_bytes(weights) < 100 * 40 * 20
    assert not expanding_bytes({"norm.weight": random(8)})


def test_first_bytes_change_with_codes_and_with_scales(tmp_path: Path) -> None:
    """A journal of half a job belongs to these very weights."""
    tensors = in_blocks()
    seen = {opened(tmp_path, tensors, BLOCKS)[NAME].first_bytes(64)}
    for name in (NAME, f"{NAME}_scale_inv"):
        tensors[name] = tensors[name].clone()
        tensors[name][0, 0] = 1.5
        seen.add(opened(tmp_path, tensors, BLOCKS)[NAME].first_bytes(64))
    assert len(seen) == 3


ZEROS = torch.zeros(1, 1)
BYTES = torch.zeros(2, 6, 3, 16, dtype=torch.uint8)
# What is stored, what the config says -> what the message says.
WRONG: dict[str, tuple[Tensors, dict[str, object], str]] = {
    "no scales": ({NAME: random(16, 8).to(FP8)}, BLOCKS, "and no scales of it"),
    "scales of other blocks": (
        in_blocks() | {f"{NAME}_scale_inv": torch.ones(5, 5)},
        BLOCKS,
        r"of shape \[40, 20\] with float32 scales of shape \[5, 5\], which do not fit FP8 in blocks of 16 x 8",
    ),
    "scales of blocks that the config does not name": (
        in_blocks(),
        WITHOUT_BLOCKS,
        r"shape \[3, 3\].* do not fit FP8:",
    ),
    "scales that are integers": (in_blocks() | {f"{NAME}_scale_inv": torch.ones(3, 3).int()}, BLOCKS, "int32 scales"),
    "codes of one dimension": ({NAME: random(8).to(FP8), f"{NAME}_scale_inv": ZEROS}, BLOCKS, r"of shape \[8\]"),
    "scales of fewer experts": (
        {EXPERTS: random(3, 16, 8).to(FP8), f"{EXPERTS}_scale_inv": torch.ones(2, 1, 1)},
        BLOCKS,
        r"shape \[2, 1, 1\], which do not fit",
    ),
    "no codes": ({NAME: random(16, 8)}, BLOCKS, "holds no such weight"),
    "other codes too": (in_blocks() | {"up.weight": torch.ones(2, 2).char()}, BLOCKS, "'up.weight' as int8"),
    "float8 of the other kind": (in_blocks() | {"up.weight": random(2, 2).to(torch.float8_e5m2)}, BLOCKS, "e5m2"),
    "blocks without exponents": ({f"{EXPERTS}_blocks": BYTES}, MXFP4, f"and no scales of it .{EXPERTS}_scales"),
    "exponents of other blocks": (
        {f"{EXPERTS}_blocks": BYTES, f"{EXPERTS}_scales": BYTES[:, :, 0, :3].mT.contiguous()},
        MXFP4,
        r"uint8 scales of shape \[2, 3, 6\], and MXFP4 has \[experts, out, groups, 16\]",
    ),
    "exponents that are floats": (
        {f"{EXPERTS}_blocks": BYTES, f"{EXPERTS}_scales": BYTES[..., 0].float()},
        MXFP4,
        "float32 scales",
    ),
    "blocks of another size": (
        {f"{EXPERTS}_blocks": BYTES[..., :8].contiguous(), f"{EXPERTS}_scales": BYTES[..., 0].contiguous()},
        MXFP4,
        r"of shape \[2, 6, 3, 8\]",
    ),
    "blocks and the weight": (
        {f"{EXPERTS}_blocks": BYTES, f"{EXPERTS}_scales": BYTES[..., 0].contiguous(), EXPERTS: random(2, 96, 6)},
        MXFP4,
        "as a weight and as MXFP4",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_does_not_fit_is_refused_by_the_headers_alone(case: str, tmp_path: Path) -> None:
    tensors, config, message = WRONG[case]
    with pytest.raises(SourceError, match=message) as caught:
        opened(tmp_path, tensors, config)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (float("nan"), "scale that is NaN or infinite"),
        (float("inf"), "scale that is NaN or infinite"),
        (-1.0, "negative scale"),
    ],
)
def test_a_scale_that_can_be_none_is_refused_when_it_is_read(value: float, said: str, tmp_path: Path) -> None:
    tensors = in_blocks()
    tensors[f"{NAME}_scale_inv"][1, 1] = value
    with pytest.raises(CheckpointError, match=f"{NAME} of .* has a {said}"):
        opened(tmp_path, tensors, BLOCKS)[NAME][...]


def test_exponents_and_codes_that_stand_for_nan_are_refused(tmp_path: Path) -> None:
    exponents = torch.full((2, 6, 3), 255, dtype=torch.uint8)
    weights = opened(tmp_path, {f"{EXPERTS}_blocks": BYTES, f"{EXPERTS}_scales": exponents}, MXFP4)
    with pytest.raises(CheckpointError, match=f"{EXPERTS} of .* has the exponent 255"):
        weights[EXPERTS][...]
    tensors = in_blocks()
    tensors[NAME].view(torch.uint8)[17, 3] = 0xFF
    with pytest.raises(CheckpointError, match=f"{NAME} of .* holds NaN"):
        opened(tmp_path, tensors, BLOCKS)[NAME][...]
    tensors = in_blocks() | {f"{NAME}_scale_inv": torch.full((3, 3), 255, dtype=torch.uint8)}
    with pytest.raises(CheckpointError, match="a scale that is NaN"):
        opened(tmp_path, tensors, BLOCKS)[NAME][...]


@pytest.mark.parametrize("size", [[0, 128], [128], [128, -1], [128, 1.5], [True, 128], "128", 128, [10**9, 128], {}])
def test_odd_sizes_of_blocks_are_refused_by_the_config_alone(size: object) -> None:
    schemes = {"strategy": "block", "block_structure": size, "type": "float", "num_bits": 8}
    packed = {"quant_method": "compressed-tensors", "format": "float-quantized"}
    for config in (
        {"quant_method": "fp8", "weight_block_size": size},
        packed | {"config_groups": {"group_0": {"targets": ["Linear"], "weights": schemes}}},
    ):
        with pytest.raises(CheckpointError, match="must be two numbers such as"):
            source_codes("the model", config)


FLOAT8 = {"type": "float", "num_bits": 8, "strategy": "channel"}


@pytest.mark.parametrize(
    ("schemes", "layout", "expected"),
    [
        ([FLOAT8], "float-quantized", "FP8"),
        ([FLOAT8], "naive-quantized", "FP8"),
        ([FLOAT8 | {"strategy": "tensor"}], "float-quantized", "FP8"),
        (
            [FLOAT8 | {"strategy": "block", "block_structure": [128, 64]}],
            "float-quantized",
            "FP8 in blocks of 128 x 64",
        ),
        ([FLOAT8 | {"strategy": "group", "group_size": 32}, FLOAT8], "float-quantized", "FP8 in blocks of 1 x 32"),
        ([FLOAT8], "pack-quantized", None),
        ([FLOAT8, {"type": "int", "num_bits": 8, "strategy": "channel"}], "naive-quantized", None),
        ([FLOAT8 | {"num_bits": 4}], "float-quantized", None),
        ([None], "float-quantized", None),
        ([], "float-quantized", None),
    ],
)
def test_compressed_tensors_is_a_source_where_all_of_it_is_float8(
    schemes: list[object], layout: str, expected: str | None
) -> None:
    groups = {f"group_{index}": {"weights": scheme} for index, scheme in enumerate(schemes)}
    config = {"quant_method": "compressed-tensors", "format": layout, "config_groups": groups}
    codes = source_codes("the model", config)
    assert (str(codes) if codes else None) == expected


@pytest.mark.parametrize("config", [None, "fp8", {}, {"quant_method": "gptq"}, {"quant_method": ["fp8"]}, ["mxfp4"]])
def test_other_configs_are_no_sources(config: object) -> None:
    assert source_codes("the model", config) is None
