"""The contract tells between how many GPUs servers cannot split the matrices of a model."""

from dataclasses import replace

import pytest

from qtoolkit.readers import Stored, readers_of, reading_of
from qtoolkit.readers.matrices import Matrix, matrices_of

# Qwen2.5-1.5B: 12 heads of 128, 2 of them for keys and values; and one of 14B's shape, with 40 and 8.
SMALL = {
    "attn.q_proj": (1536, 1536),
    "attn.k_proj": (256, 1536),
    "attn.v_proj": (256, 1536),
    "attn.o_proj": (1536, 1536),
    "mlp.gate_proj": (8960, 1536),
    "mlp.up_proj": (8960, 1536),
    "mlp.down_proj": (1536, 8960),
}
LARGE = {"attn.o_proj": (5120, 5120), "mlp.down_proj": (5120, 13824)}


def stored(shapes: dict[str, tuple[int, int]], heads: tuple[int, int], **how: object) -> Stored:
    matrices = matrices_of({f"h.0.{name}": shape for name, shape in shapes.items()})
    usual = {"format": "gptq", "bits": (4,), "group_sizes": (128,), "matrices": matrices, "heads": heads}
    return Stored(**usual | how)  # type: ignore[arg-type]


GPTQ, WIDE = stored(SMALL, (12, 2)), stored(LARGE, (40, 8))
PACKED = replace(GPTQ, format="compressed-tensors", layout="pack-quantized")
FP8 = replace(GPTQ, format="compressed-tensors", input_type="float8", bits=(8,))
FOREIGN = replace(FP8, format="fp8", input_type="")


def refused_counts(one: Stored, reader: str) -> list[int]:
    words = reading_of(reader, readers_of(one)).note.partition("tensor parallelism not on ")[2].partition(" GPUs")[0]
    return [int(count) for count in words.split(" or ") if count]


@pytest.mark.parametrize(
    ("one", "reader", "counts"),
    [
        # 8960 inputs of 4 GPUs are 17.5 groups each; 12 heads are not split between 8.
        pytest.param(GPTQ, "vllm", [4], id="groups"),
        pytest.param(PACKED, "vllm", [4], id="packed groups"),
        pytest.param(PACKED, "sglang", [4], id="SGLang"),
        pytest.param(replace(GPTQ, format="awq"), "sglang", [4], id="AWQ"),
        pytest.param(replace(GPTQ, group_sizes=(32,)), "vllm", [], id="small groups"),
        pytest.param(replace(GPTQ, group_sizes=(-1,)), "vllm", [], id="one scale of an output"),
        # 13824 / 8 = 1728 is 13.5 groups of 128, and 54 of 32.
        pytest.param(WIDE, "vllm", [8], id="more heads"),
        pytest.param(replace(WIDE, group_sizes=(32,)), "vllm", [], id="more heads, small groups"),
        pytest.param(replace(GPTQ, heads=(9, 3)), "vllm", [], id="the heads are not split"),
        pytest.param(replace(GPTQ, heads=(12, 8)), "vllm", [4], id="keys are split"),
        pytest.param(replace(GPTQ, heads=()), "vllm", [], id="heads not known"),
        pytest.param(GPTQ, "gptqmodel", [], id="no server"),
        pytest.param(FP8, "vllm", [4], id="blocks"),
        pytest.param(FOREIGN, "vllm", [4], id="blocks of others"),
        pytest.param(replace(FP8, group_sizes=(-1,)), "vllm", [], id="float8 by channels"),
    ],
)
def test_counts_that_would_cut_groups_or_blocks(one: Stored, reader: str, counts: list[int]) -> None:
    assert refused_counts(one, reader) == counts
    assert reading_of(reader, readers_of(one)).loads


def test_blocks_of_outputs_stay_whole() -> None:
    # Keys of 8 heads of 64: 256 outputs of 2 GPUs, 128 of 4, 64 of 8, where each GPU has one head.
    heads = replace(FP8, heads=(32, 8), matrices=(Matrix("attn.qkv_proj", (2048, 512, 512), 2048),))
    assert refused_counts(heads, "vllm") == [8]
    # Heads that are fewer than the GPUs are repeated: 2 of 128 are 128 outputs everywhere.
    assert (
        refused_counts(replace(heads, heads=(32, 2), matrices=(Matrix("attn.qkv_proj", (4096, 256, 256), 1),)), "vllm")
        == []
    )
    gate = replace(FP8, heads=(32, 8), matrices=(Matrix("mlp.gate_up_proj", (1536, 1536), 2048),))
    assert refused_counts(gate, "vllm") == [8]


def test_the_kernel_of_sglang_takes_parts_too() -> None:
    # 1472 / 2 = 736 outputs are 11.5 times 64; vLLM fills them up.
    gate = replace(GPTQ, heads=(16, 16), matrices=(Matrix("mlp.up_proj", (1472,), 128),), group_sizes=(64,))
    assert refused_counts(gate, "vllm") == []
    assert refused_counts(gate, "sglang") == [2, 4, 8]
    assert "parts of mlp.up_proj, 736 x 128" in reading_of("sglang", readers_of(gate)).note


def test_the_sentence_names_the_first_matrix() -> None:
    assert reading_of("vllm", readers_of(GPTQ)).note.endswith(
        "with tensor parallelism not on 4 GPUs, which would cut groups of 128 in mlp.down_proj of 8960 inputs"
    )
