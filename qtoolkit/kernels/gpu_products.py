"""Choose how a GPU multiplies with packed codes: the one place that knows kinds of cards and numbers of tokens."""

from collections.abc import Callable
from functools import cache
from types import ModuleType

import torch

from qtoolkit.kernels.blockwise import expand
from qtoolkit.kernels.tinygemm import PLAIN_BLOCK, Layout, layout_for
from qtoolkit.tensor.triton_check import runs_triton

# Tokens up to which each way is taken. Of a weight of 14336 x 4096, torch's 4-bit kernel took 28 us for one token, 76
# for 16 on an H200, products in bfloat16 41 to 43 up to 128 and 92 for 512; expanding it takes some 50 by arithmetic.
# Triton's products were not measured on a card: `benchmarks/gpu.py` prints what sets these numbers.
MOST_FOR_TORCH = 8
MOST_FOR_VECTORS = 8
MOST_FOR_TENSOR_CORES = 128
# Inputs that the product without tensor cores takes at one time, all of one group.
_STEP = 32
# From this compute capability on, tl.dot becomes tensor cores' products; before, as on a T4, plain multiply-adds.
_TENSOR_CORES = (8, 0)


def may_use_triton(device: torch.device) -> bool:
    """Check whether Triton's kernels expand codes, and multiply with them, on a device.

    Without CUDA, only plans for another machine ask; that machine is assumed to run them.
    """
    return device.type == "cuda" and (not torch.cuda.is_available() or runs_triton(device, planes_agree))


def kernel_for(
    x: torch.Tensor, *, num_planes: int, block: int, inputs_per_scale: int
) -> Callable[..., torch.Tensor] | None:
    """Return the Triton kernel that multiplies x[tokens, in], `multiply_planes` or one with its arguments.

    None where expanding the weight first is faster, or where no kernel takes such codes or runs on the device.

    Args:
        x: inputs in the order of the codes.
        num_planes: in which the codes are stored.
        block: outputs that the layout stores together; 0 for the tiles of torch's CUDA kernel.
        inputs_per_scale: of the codes.
    """
    if not len(x) or num_planes > 1 or not may_use_triton(x.device):
        return None
    if len(x) <= MOST_FOR_VECTORS and block and not inputs_per_scale % _STEP and x.dtype != torch.float64:
        few: Callable[..., torch.Tensor] = plane_kernels().multiply_planes
        return few
    in_16_bits = x.dtype in (torch.bfloat16, torch.float16)
    if len(x) <= MOST_FOR_TENSOR_CORES and in_16_bits and has_tensor_cores(x.device):
        some: Callable[..., torch.Tensor] = _core_kernels().multiply_by_tensor_cores
        return some
    return None


@cache
def has_tensor_cores(device: torch.device) -> bool:
    """Check whether Triton's products run in a card's tensor cores, and agree with torch's there."""
    return torch.cuda.get_device_capability(device) >= _TENSOR_CORES and runs_triton(device, products_agree)


def planes_agree(device: torch.device) -> bool:
    """Check whether Triton's kernels expand and multiply as torch's operations do on a device; of whole numbers."""
    codes, scale, weight = _whole_numbers(device)
    for layout in _layouts(device):
        found = plane_kernels().expand_planes(
            [layout.pack(codes)], scale, 8, block=layout.block, in_features=len(codes), shift=0, dtype=torch.bfloat16
        )
        if not torch.equal(found, weight.bfloat16()):
            return False
    x = _inputs(device, 3).float()
    plain = Layout(PLAIN_BLOCK, None)
    product = plane_kernels().multiply_planes(x, plain.pack(codes), scale, 8, block=plain.block, shift=0)
    return torch.equal(product, x @ weight)


def products_agree(device: torch.device) -> bool:
    """Check whether Triton's product in tensor cores is torch's on a device, in both types; of whole numbers."""
    return products_agree_in(torch.bfloat16, device) and products_agree_in(torch.float16, device)


def products_agree_in(dtype: torch.dtype, device: torch.device) -> bool:
    """Check the same in one type, and in each layout that codes may have on the device."""
    codes, scale, weight = _whole_numbers(device)
    x = _inputs(device, 17)
    expected = (x.float() @ weight).to(dtype)
    planes = [(layout.pack(codes), layout.block) for layout in _layouts(device)]
    # [in, outputs] bytes of one block -> [outputs, in]
    planes.append((codes.reshape(PLAIN_BLOCK, len(codes)), PLAIN_BLOCK))
    multiply = _core_kernels().multiply_by_tensor_cores
    products = (multiply(x.to(dtype), plane, scale, 8, block=block, shift=0) for plane, block in planes)
    return all(torch.equal(product, expected) for product in products)


def plane_kernels() -> ModuleType:
    """Import Triton's kernels: they need packages that only CUDA's torch brings."""
    from qtoolkit.kernels import plane_kernels as kernels

    return kernels


def _core_kernels() -> ModuleType:
    from qtoolkit.kernels import tensor_core_kernels

    return tensor_core_kernels


def _whole_numbers(device: torch.device) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return codes [in, out], scales of them, and the weight with zero points of 8 that bfloat16 holds exactly."""
    codes = (torch.arange(128 * 64, device=device).view(128, 64) * 7 % 16).byte()
    scale = (torch.arange(4 * 64, device=device).view(4, 64) % 31 - 15).half()
    return codes, scale, expand(codes, scale, 8, None, torch.float32)


def _inputs(device: torch.device, tokens: int) -> torch.Tensor:
    return torch.arange(tokens * 128, device=device).view(tokens, 128) % 5 - 2


def _layouts(device: torch.device) -> tuple[Layout, ...]:
    """Return the layouts that codes may have on a device."""
    plain = Layout(PLAIN_BLOCK, None)
    own = layout_for(in_features=128, out_features=64, group_size=32, device=device)
    return (plain,) if own is None else (plain, own)
