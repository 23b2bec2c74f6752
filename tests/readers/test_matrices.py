"""Which matrices servers make of layers, and which programs take none of their sizes."""

from dataclasses import replace

import pytest

from qtoolkit.readers import Stored, readers_of, reading_of
from qtoolkit.readers.matrices import Matrix, matrices_of, outside_tiles

# SmolLM2-135M: 9 heads of 64, 3 of them for keys and values.
SMOLLM2 = {
    "self_attn.q_proj": (576, 576),
    "self_attn.k_proj": (192, 576),
    "self_attn.v_proj": (192, 576),
    "self_attn.o_proj": (576, 576),
    "mlp.gate_proj": (1536, 576),
    "mlp.up_proj": (1536, 576),
    "mlp.down_proj": (576, 1536),
}
LAYERS = {f"model.layers.{block}.{name}": shape for block in range(3) for name, shape in SMOLLM2.items()}
MATRICES = (
    Matrix("mlp.down_proj", (576,), 1536),
    Matrix("mlp.gate_up_proj", (1536, 1536), 576),
    Matrix("self_attn.o_proj", (576,), 576),
    Matrix("self_attn.qkv_proj", (576, 192, 192), 576),
)
# Thread configs of SGLang 0.5.23, gptq_marlin.cuh:117-131, as (thread_k, thread_n).
CONFIGS = [[(128, 128), (64, 128), (128, 64)], [(64, 256), (64, 128), (128, 64)]]
GPTQ = Stored(format="gptq", bits=(4,), group_sizes=(64,), matrices=MATRICES)
PACKED = replace(GPTQ, format="compressed-tensors", layout="pack-quantized")
BLOCKS = Stored(
    format="compressed-tensors", input_type="float8", bits=(8,), group_sizes=(128,), matrices=MATRICES, dtype="bfloat16"
)


def test_matrices_are_those_of_all_blocks_in_the_order_of_joining() -> None:
    assert matrices_of(dict(reversed(LAYERS.items()))) == MATRICES


def test_experts_and_layers_outside_blocks_are_no_matrices() -> None:
    assert matrices_of({"model.layers.1.mlp.experts.7.w1": (64, 64), "lm_head": (64, 64), "h.0.norm": (64,)}) == ()


def test_sizes_fit_where_a_thread_config_of_the_kernel_does() -> None:
    sizes = [(outputs, inputs) for outputs in range(64, 577, 32) for inputs in range(64, 577, 32)]
    fits = {size: all(any(size[1] % k == 0 and size[0] % n == 0 for k, n in own) for own in CONFIGS) for size in sizes}
    assert {size: not outside_tiles([Matrix("h", size[:1], size[1])]) for size in sizes} == fits


def test_layers_fit_together_and_not_one_by_one() -> None:
    assert outside_tiles([Matrix("attn.qkv_proj", (96, 32), 64)]) == ()
    assert outside_tiles([Matrix("attn.qkv_proj", (128, 32), 64)]) == ("attn.qkv_proj of 160 x 64",)


def test_many_matrices_are_counted() -> None:
    assert outside_tiles([Matrix(f"m{number}", (96,), 96) for number in range(5)]) == (
        "m0 of 96 x 96",
        "m1 of 96 x 96",
        "3 others",
    )


@pytest.mark.parametrize(
    ("stored", "reader", "loads"),
    [
        (GPTQ, "sglang", False),
        (PACKED, "sglang", False),
        (replace(GPTQ, matrices=MATRICES[:2]), "sglang", True),
        (replace(GPTQ, matrices=()), "sglang", True),
        # It takes such layers of AWQ by another kernel: awq/awq.py:353.
        (replace(GPTQ, format="awq", sym=False), "sglang", True),
        (GPTQ, "vllm", True),
        (GPTQ, "vllm 0.24", True),
        (GPTQ, "vllm 0.23", False),
        (replace(GPTQ, dtype="float16"), "vllm 0.23", True),
        (PACKED, "vllm 0.23", False),
        (replace(GPTQ, matrices=MATRICES[:2]), "vllm 0.23", True),
        *((BLOCKS, reader, False) for reader in ("vllm", "sglang")),
        *((replace(BLOCKS, group_sizes=(-1,)), reader, True) for reader in ("vllm", "sglang")),
        *((replace(BLOCKS, matrices=MATRICES[:3]), reader, True) for reader in ("vllm", "sglang")),
    ],
)
def test_a_program_takes_sizes_or_not(stored: Stored, reader: str, loads: bool) -> None:
    assert reading_of(reader, readers_of(stored)).loads is loads


def test_a_sentence_names_the_layers_and_the_sizes_that_run() -> None:
    assert reading_of("sglang", readers_of(GPTQ)).reason == (
        "self_attn.o_proj of 576 x 576 and self_attn.qkv_proj of 960 x 576, where its kernel takes outputs x inputs in "
        "multiples of 128 x 64 or 64 x 128: exclude these layers"
    )
    assert reading_of("vllm", readers_of(BLOCKS)).why == (
        "blocks of 128 x 128 in self_attn.qkv_proj of 576 + 192 + 192 outputs, which it joins in multiples of 128"
    )
