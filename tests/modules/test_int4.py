"""The layout of torch's 4-bit CPU kernel, and scales that come back exactly."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from qtoolkit.modules.int4 import Int4Weight, cpu_block


@pytest.mark.parametrize("out_features", [64, 128, 192])
@pytest.mark.parametrize("in_features", [32, 160])
def test_packed_as_torch_packs(in_features: int, out_features: int) -> None:
    codes = torch.randint(16, (in_features, out_features)).byte()
    ones = torch.ones(in_features // 32, out_features, dtype=torch.float16)
    weight = Int4Weight(
        [codes[:, :64], codes[:, 64:]] if out_features > 64 else [codes], ones, ones.byte(), in_features
    )
    assert torch.equal(weight.packed, torch._convert_weight_to_int4pack_for_cpu(codes.T.int().contiguous(), 1))
    for columns in (slice(0, out_features), slice(0, 64), slice(out_features - 64, out_features)):
        assert torch.equal(weight.codes(columns), codes[:, columns])


@pytest.mark.parametrize("zero_point", [8, 3], ids=["centered", "with offsets"])
@pytest.mark.parametrize("group_size", [32, 512], ids=lambda size: f"g{size}")
def test_every_float16_comes_back(zero_point: int, group_size: int) -> None:
    bits = torch.arange(-(2**15), 2**15).to(torch.int16)
    numbers = bits.view(torch.float16)
    scale = numbers[numbers.isfinite()].view(-1, 64)  # 31 exponents * 1024 fractions * 2 signs = 63,488 of them
    in_features = len(scale) * group_size
    codes = torch.zeros(in_features, 64, dtype=torch.uint8)
    weight = Int4Weight([codes], scale, torch.full(scale.shape, zero_point, dtype=torch.uint8), in_features)
    assert torch.equal(weight.scale(slice(0, 64)).view(torch.int16), scale.view(torch.int16))


def test_another_instruction_set_has_another_layout() -> None:
    """Where torch has AVX2 alone, as on many laptops, packed and computed as well; torch looks at its start."""
    program = """
import torch
from qtoolkit.modules.int4 import Int4Weight, cpu_block
if torch.backends.cpu.get_cpu_capability() == "AVX2":
    codes = torch.randint(16, (64, 96)).byte()
    weight = Int4Weight([codes], torch.ones(2, 96).half(), torch.full((2, 96), 7, dtype=torch.uint8), 64)
    assert cpu_block() == 32
    assert torch.equal(weight.codes(slice(32, 96)), codes[:, 32:])
    assert torch.equal(weight.multiply(torch.eye(64).bfloat16()), codes.bfloat16() - 7)
"""
    environment = {**os.environ, "ATEN_CPU_CAPABILITY": "avx2"}
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False, cwd=root
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_this_machine_has_a_kernel() -> None:
    """Otherwise the other tests of this room prove little."""
    if torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"):
        pytest.skip("torch has no fast 4-bit kernel for this CPU")
    assert cpu_block() == (64 if torch.backends.cpu.get_cpu_capability() == "AVX512" else 32)
