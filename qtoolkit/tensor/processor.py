"""What this machine's processor computes fast.

`ATEN_CPU_CAPABILITY=avx2` and `ONEDNN_MAX_CPU_ISA=AVX2` in the environment make torch, and so all that is asked here,
take a newer processor for one of AVX2 alone.
"""

from functools import cache

import torch


@cache
def bfloat16_is_fast() -> bool:
    """Whether products of bfloat16 are no slower than float32's: they are with AVX512, or with what is newer.

    With AVX2 alone, x[32, 576] W[576, 1536] takes 53.7 ms instead of 0.6, and x W^T 2.3 ms (torch 2.13, one core).
    """
    return torch.ops.mkldnn._is_mkldnn_bf16_supported()  # type: ignore[no-any-return]  # noqa: SLF001


def bfloat16_is_native() -> bool:
    """Whether there are instructions for it, AVX512-BF16 or AMX, which make its products faster than float32's."""
    return bfloat16_is_fast() and _has_bfloat16_instructions()


def product_dtype(dtype: torch.dtype, device: str) -> torch.dtype:
    """Return the type to multiply in: `dtype` itself, or float32 on a CPU that multiplies it slowly.

    Args:
        dtype: type of the numbers.
        device: "cpu", "cuda" or "cuda:0".
    """
    is_slow = dtype == torch.float16 or (dtype == torch.bfloat16 and not bfloat16_is_fast())
    return torch.float32 if device == "cpu" and is_slow else dtype


@cache
def _has_bfloat16_instructions() -> bool:
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())  # noqa: SLF001
