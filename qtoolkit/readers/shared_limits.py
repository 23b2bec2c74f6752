"""Conditions, paths and words that the tables of several formats share."""

from qtoolkit.readers.entry import Limit

COMPRESSED = "format='compressed-tensors' holds them"
SERVER_GROUPS = (-1, 32, 64, 128)
MIXED = Limit(
    "mixed_units",
    (),
    "layers that it fuses are not quantized alike",
    "quantize q, k and v alike, and gate and up alike",
)
WHOLE_EXPERTS = Limit(
    "split_experts",
    ("",),
    "experts of {got} one by one, which it looks for in one tensor",
    "exclude '*.experts.*'",
)
EMBEDDINGS = "leave embeddings out"
NO_EMBEDDINGS = Limit("embeddings", (None,), "quantized embeddings", EMBEDDINGS)
VLLM = "vllm/model_executor/layers/quantization"
SGLANG = "sglang/srt/layers/quantization"
CONVERTS = "qt.convert(..., 'gguf') makes a .gguf of it with the same codes, where block types hold them"
