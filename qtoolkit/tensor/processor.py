"""Find out which floating types this machine's processor multiplies fast.

With `ATEN_CPU_CAPABILITY=avx2`, `ONEDNN_MAX_CPU_ISA=AVX2` and `MKL_ENABLE_INSTRUCTIONS=AVX2` set, torch and
the functions here treat a newer processor as one with AVX2 only.
"""

from functools import cache

import torch


@cache
def bfloat16_is_fast() -> bool:
    """Check whether products in bfloat16 are no slower than in float32: true with AVX512 or newer instructions.

    With AVX2 only, x[32, 576] W[576, 1536] takes 53.7 ms instead of 0.6, and x W^T 2.3 ms (torch 2.13, one core).
    """
    return torch.ops.mkldnn._is_mkldnn_bf16_supported()  # type: ignore[no-any-return]  # noqa: SLF001


def bfloat16_is_native() -> bool:
    """Check whether the CPU has bfloat16 instructions, AVX512-BF16 or AMX: products are faster than in float32."""
    return bfloat16_is_fast() and _has_bfloat16_instructions()


def product_dtype(dtype: torch.dtype, device: str) -> torch.dtype:
    """Return the type to multiply in: `dtype`, or float32 on a CPU that multiplies `dtype` slowly.

    Args:
        dtype: type of the factors.
        device: "cpu", "cuda" or "cuda:0".
    """
    is_slow = dtype == torch.float16 or (dtype == torch.bfloat16 and not bfloat16_is_fast())
    return torch.float32 if device == "cpu" and is_slow else dtype


@cache
def _has_bfloat16_instructions() -> bool:
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())  # noqa: SLF001
