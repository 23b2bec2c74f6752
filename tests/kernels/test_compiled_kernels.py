"""Triton's kernels compile for every kind of card, within its shared memory; no GPU is needed for that."""

from typing import Any

import pytest

from tests.interpreting_triton import skip_unless

pytestmark = pytest.mark.once
skip_unless(interpreted=False)

# Compute capability -> shared memory of a block in bytes (CUDA C++ Programming Guide, technical specifications).
SHARED = {75: 65_536, 80: 166_912, 89: 101_376, 90: 232_448}
COLUMNS = dict.fromkeys(("targets", "error", "lower", "scale", "inverse", "low", "high", "levels"), "*fp32")
CHANGES = dict.fromkeys(("wanted", "of_others", "least", "most", "changes"), "*fp32")
SIZES = {"block": "i32", "out_features": "i32"}


def compile_for(
    capability: int, function: Any, signature: dict[str, str], constants: dict[str, int], **options: int
) -> Any:
    from triton import compile as compile_kernel
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    signature = {name: signature.get(name, "constexpr") for name in function.arg_names}
    source = ASTSource(function, signature, constexprs=constants)
    target = GPUTarget("cuda", capability, 32)
    return compile_kernel(source, target=target, options={"enable_fp_fusion": True, **options})


@pytest.mark.parametrize("capability", SHARED)
def test_columns(capability: int) -> None:
    from qtoolkit.tensor import column_kernels

    rounding = compile_for(
        capability,
        column_kernels._round_columns,
        {**COLUMNS, **SIZES, "groups": "*i64"},
        {"BLOCK": 64, "TILE": column_kernels._TILE},
    )
    changing = compile_for(
        capability, column_kernels._change_columns, {**CHANGES, **SIZES}, {"BLOCK": 128, "TILE": column_kernels._TILE}
    )
    for kernel in (rounding, changing):
        assert kernel.asm["cubin"]
        assert kernel.metadata.shared <= SHARED[capability]
        # What does not fit the registers would go through slow local memory.
        assert ".local" not in kernel.asm["ptx"]


# Tiles are those of cards from 8.0 on.
@pytest.mark.parametrize(
    ("capability", "layout"), [(75, "blocks"), (75, "bytes"), (80, "tiles"), (89, "tiles"), (90, "tiles")]
)
def test_expansion(capability: int, layout: str) -> None:
    """To float16 for a T4, which has no bfloat16."""
    from qtoolkit.kernels import plane_kernels

    plane = "*i32" if layout == "tiles" else "*u8"
    pointers = {"first": plane, "last": plane, "scale": "*fp16", "zero_point": "*u8"}
    numbers = dict.fromkeys(("in_features", "out_features", "group_size", "shift"), "i32")
    kernel = compile_for(
        capability,
        plane_kernels._expand,
        {**pointers, **numbers, "weight": "*fp16" if capability < 80 else "*bf16"},
        {
            "PLANES": 1 if layout == "bytes" else 2,
            "BLOCK": 0 if layout == "tiles" else 64,
            "IS_BYTES": layout == "bytes",
            "TILES": 8 if layout == "tiles" else 0,
            "IS_COMMON": False,
            "IS_CONSTANT": False,
            "INPUTS": plane_kernels._INPUTS,
            "OUTPUTS": plane_kernels._OUTPUTS,
        },
        num_warps=plane_kernels._WARPS,
    )
    assert kernel.asm["cubin"]
    assert kernel.metadata.shared <= SHARED[capability]
    assert ("bf16" in kernel.asm["ptx"]) == (capability >= 80)
    assert ".local" not in kernel.asm["ptx"]


@pytest.mark.parametrize("is_bytes", [False, True], ids=["halves", "bytes"])
def test_a_few_tokens_on_a_t4(is_bytes: bool) -> None:
    from qtoolkit.kernels import plane_kernels

    pointers = {"x": "*fp16", "plane": "*u8", "scale": "*fp16", "zero_point": "*u8", "sums": "*fp32"}
    sizes = ("tokens", "in_features", "out_features", "group_size", "each", "shift")
    kernel = compile_for(
        75,
        plane_kernels._multiply,
        {**pointers, **dict.fromkeys(sizes, "i32")},
        {
            "TOKENS": 8,
            "LANES": 32,
            "IS_BYTES": is_bytes,
            "IS_COMMON": False,
            "IS_CONSTANT": False,
            "STEP": plane_kernels._STEP,
        },
    )
    assert kernel.asm["cubin"]
    assert kernel.metadata.shared <= SHARED[75]
    assert "bf16" not in kernel.asm["ptx"]
    assert ".local" not in kernel.asm["ptx"]


@pytest.mark.parametrize(
    ("capability", "tokens", "layout"),
    [(80, 128, "tiles"), (89, 128, "bytes"), (90, 16, "halves"), (90, 128, "tiles")],
    ids=str,
)
def test_some_tokens_in_tensor_cores(capability: int, tokens: int, layout: str) -> None:
    """No configuration for a T4, whose products would be plain multiply-adds."""
    from qtoolkit.kernels import tensor_core_kernels

    plane = "*i32" if layout == "tiles" else "*u8"
    pointers = {"x": "*bf16", "plane": plane, "scale": "*fp16", "zero_point": "*u8", "sums": "*fp32"}
    sizes = ("tokens", "in_features", "out_features", "group_size", "each", "shift")
    kernel = compile_for(
        capability,
        tensor_core_kernels._multiply_by_tensor_cores,
        {**pointers, **dict.fromkeys(sizes, "i32")},
        {
            "TOKENS": tokens,
            "OUTPUTS": tensor_core_kernels._OUTPUTS,
            "STEP": tensor_core_kernels._STEP,
            "BLOCK": 0 if layout == "tiles" else 64,
            "SIDE_BY_SIDE": {"tiles": 0, "bytes": 64, "halves": 32}[layout],
            "TILES": 8 if layout == "tiles" else 0,
            "IS_COMMON": False,
            "IS_CONSTANT": False,
            "IN_ONE_GROUP": layout == "tiles",
        },
        num_warps=8 if tokens == 128 else 4,
    )
    assert kernel.asm["cubin"]
    assert kernel.metadata.shared <= SHARED[capability]
    assert "mma" in kernel.asm["ptx"]
    assert ".local" not in kernel.asm["ptx"]
