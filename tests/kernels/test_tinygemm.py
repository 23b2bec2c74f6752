"""The layout of torch's 4-bit CPU kernel, and scales that come back exactly."""

import os
import subprocess
import sys
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest
import torch

from qtoolkit.kernels.packed_int4 import PackedInt4
from qtoolkit.kernels.tinygemm import Layout, cpu_block, layout_for

pytestmark = pytest.mark.once

if TYPE_CHECKING:
    from qtoolkit.kernels import Codes

CPU = torch.device("cpu")


@pytest.mark.parametrize("out_features", [64, 192])
@pytest.mark.parametrize("in_features", [32, 160])
def test_packed_as_torch_packs(in_features: int, out_features: int) -> None:
    codes = torch.randint(16, (in_features, out_features)).byte()
    layout = layout_for(in_features, out_features, 32, CPU)
    assert layout is not None
    packed = layout.pack(codes)
    assert torch.equal(packed, torch._convert_weight_to_int4pack_for_cpu(codes.T.int().contiguous(), 1))
    for columns in (slice(0, out_features), slice(0, 64), slice(out_features - 64, out_features)):
        assert torch.equal(layout.unpack(packed, in_features, columns), codes[:, columns])


@pytest.mark.parametrize("zero_point", [8, 3], ids=["centered", "with offsets"])
@pytest.mark.parametrize("group_size", [32, 512], ids=lambda size: f"g{size}")
@pytest.mark.parametrize("bits", [4, 8])
def test_every_float16_comes_back(bits: int, zero_point: int, group_size: int) -> None:
    numbers = torch.arange(-(2**15), 2**15).to(torch.int16).view(torch.float16)
    scale = numbers[numbers.isfinite()].view(-1, 64)  # 31 exponents * 1024 fractions * 2 signs = 63,488 of them
    in_features = len(scale) * group_size
    layout = layout_for(in_features, 64, group_size, CPU)
    assert layout is not None
    source = SimpleNamespace(
        bits=bits,
        in_features=in_features,
        out_features=64,
        inputs_per_scale=group_size,
        device=CPU,
        order=None,
        round_inputs=None,
        centered=zero_point == 8,
        codes=lambda outputs: torch.zeros(in_features, 64, dtype=torch.uint8),
        scale=lambda outputs: scale,
        zero_points=lambda outputs: torch.full(scale.shape, zero_point, dtype=torch.uint8),
    )
    weight = PackedInt4(cast("Codes", source), layout)
    assert torch.equal(weight.scale(slice(0, 64)).view(torch.int16), scale.view(torch.int16))


@pytest.mark.parametrize(
    ("shape", "group_size", "expected"),
    [((512, 128), 128, 128), ((512, 128), 512, 256), ((96, 128), 96, 32), ((512, 128), 16, None)],
    ids=["its own", "parts of a large one", "parts of an odd one", "too small"],
)
def test_groups_of_the_kernel(shape: tuple[int, int], group_size: int, expected: int | None) -> None:
    layout = layout_for(*shape, group_size, CPU)
    assert layout is not None
    assert layout.group_size == expected


@pytest.mark.parametrize(("shape", "group_size"), [((100, 128), 64), ((128, 100), 64)], ids=["groups", "outputs"])
def test_weights_that_fit_no_layout(shape: tuple[int, int], group_size: int) -> None:
    assert layout_for(*shape, group_size, CPU) is None


@pytest.mark.parametrize("tiles", [8, 4, 2])
def test_the_tiles_of_the_cuda_kernel_are_read_back(tiles: int) -> None:
    """Packed thread by thread, as `matrix_to_m16n8k16_Bint4_layout` of torch's int4mm.cu does."""
    in_features, out_features = 2 * 16 * tiles, 16
    codes = torch.randint(16, (in_features, out_features)).byte()
    packed = torch.empty(out_features // 8, in_features // (16 * tiles), 32, tiles // 2, dtype=torch.int64)
    for tile_out, tile_in, thread, pair in product(*map(range, packed.shape)):
        first = (tile_in * tiles + 2 * pair) * 16 + thread % 4 * 2
        places = [first + eighth for eighth in (0, 8, 16, 24)]
        column = codes[:, tile_out * 8 + thread // 4].tolist()
        halves = [column[place] for place in places] + [column[place + 1] for place in places]
        packed[tile_out, tile_in, thread, pair] = sum(half << 4 * index for index, half in enumerate(halves))
    words = torch.where(packed >= 2**31, packed - 2**32, packed).int()
    assert torch.equal(Layout(0, 32).unpack(words, in_features, slice(0, 16)), codes)
    assert torch.equal(Layout(0, 32).unpack(words, in_features, slice(8, 16)), codes[:, 8:])


def test_another_instruction_set_has_another_layout() -> None:
    """Where torch has AVX2 alone, as on many laptops, packed and computed as well; torch looks at its start."""
    program = """
import torch
from qtoolkit.kernels.tinygemm import Layout, cpu_block, layout_for, multiply, pairs_of
if torch.backends.cpu.get_cpu_capability() == "AVX2":
    codes = torch.randint(16, (64, 96)).byte()
    layout = layout_for(64, 96, 32, torch.device("cpu"))
    assert layout == Layout(32, 32)
    packed = layout.pack(codes)
    assert torch.equal(layout.unpack(packed, 64, slice(32, 96)), codes[:, 32:])
    pairs = pairs_of(torch.ones(2, 96), torch.ones(2, 96), 1)
    assert torch.equal(multiply(torch.eye(64).bfloat16(), packed, pairs, 32), codes.bfloat16() - 7)
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
