"""Conditions, paths and words that the tables of several formats share."""

from qtoolkit.readers.entry import Limit, Since

COMPRESSED = "format='compressed-tensors' holds them"
SERVER_GROUPS = (-1, 32, 64, 128)
# `check_marlin_supports_shape` is called there, and its answer left alone: the kernel refuses the first product.
TILED = Limit(
    "outside_tiles",
    (),
    "{got}, where its kernel takes outputs x inputs in multiples of 128 x 64 or 64 x 128",
    "exclude these layers",
)
# Of layers that are joined, blocks of weights must not lie across two: `validate_fp8_block_shape`.
WHOLE_BLOCKS = Limit(
    "cut_blocks",
    (),
    "blocks of 128 x 128 in {got}, which it joins in multiples of 128",
    "give granularity='channel'",
)
MIXED = Limit(
    "unlike_units",
    (),
    "layers of {got}, which it joins, are not quantized alike",
    "{whole}",
)
WHOLE_EXPERTS = Limit(
    "split_experts",
    ("",),
    "experts of {got} one by one, which it looks for in one tensor",
    "exclude '*.experts.*'",
)
# sglang/srt/layers/quantization/compressed_tensors/compressed_tensors.py:881-889.
HIDDEN_EXPERTS = Limit(
    "hidden_experts",
    (False,),
    "experts that it looks for as gate_proj, up_proj and down_proj, where the config has other names",
    "quantize all layers alike, the experts too",
)
EMBEDDINGS = "leave embeddings out"
NO_EMBEDDINGS = Limit("embeddings", (None,), "quantized embeddings", EMBEDDINGS)
# qtoolkit's own: what it reads, it can also write in another format.
LARGE_GROUPS = Limit("small_groups", (), "groups of {got}", "load it with transformers", is_kept=True)
VLLM = "vllm/model_executor/layers/quantization"
SGLANG = "sglang/srt/layers/quantization"
MARLIN = "sglang/kernels/jit/csrc/gemm/marlin/gptq_marlin.cuh:117-131"
# Older ones refuse these matrices, or multiply them in float16 by another kernel.
FILLS_UP = Since(
    "0.24.0", without="0.23.0", found="marlin_padded_nk in marlin_utils.py", field="is_filled_up", values=(True,)
)
CONVERTS = "qt.convert(..., 'gguf') makes a .gguf of it with the same codes, where block types hold them"
