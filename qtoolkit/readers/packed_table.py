"""The rows of the reader contract on compressed-tensors whose integers are packed: `pack-quantized`."""

from qtoolkit.readers.entry import Entry, Limit, Since
from qtoolkit.readers.shared_limits import (
    CONVERTS,
    EMBEDDINGS,
    EXPERT_NAMES,
    FILLS_UP,
    HIDDEN_EXPERTS,
    LARGE_GROUPS,
    MARLIN,
    MIXED,
    NO_EMBEDDINGS,
    SERVER_GROUPS,
    SGLANG,
    TILED,
    VLLM,
    WHOLE_EXPERTS,
)

_EXPANDS = Limit(
    "packs_zero_points",
    (False,),
    "packed zero points",
    'write "run_compressed": false into its quantization_config',
    is_kept=True,
)
_PLAIN_EXPERTS = Limit(
    "plain_experts",
    (False,),
    "experts in 16 bits beside quantized layers, which it does not join",
    "quantize the experts too",
)
# transformers/modeling_utils.py, `initialize_weights`; transformers/models/siglip/modeling_siglip.py:424.
_FIRST_VALUES = Limit(
    "layers_given_values",
    (),
    "packed codes of {got}, whose `weight` the model's class sets as it is opened",
    "exclude these layers, or leave include out; with qtoolkit imported transformers loads them",
)
_TRANSFORMERS_CT = "it expands the codes, so that nothing is saved there; with qtoolkit imported they stay packed"
PACKED = (
    Entry(
        "transformers",
        "compressed-tensors",
        source="transformers/quantizers/quantizer_compressed_tensors.py; tests/readers/test_real_readers.py",
        since=(Since("5.0.0", found="quantizer_compressed_tensors.py"),),
        needs="compressed-tensors >= 0.15",
        limits=(WHOLE_EXPERTS, _EXPANDS, NO_EMBEDDINGS, _PLAIN_EXPERTS, _FIRST_VALUES),
        note=_TRANSFORMERS_CT,
    ),
    Entry(
        "transformers4",
        "compressed-tensors",
        source="run with compressed-tensors 0.20.1: zero points are no longer packed as it packs them",
        since=(Since("4.45.0", without="4.44.2", found="quantizer_compressed_tensors.py"),),
        needs="compressed-tensors",
        limits=(WHOLE_EXPERTS, Limit("sym", (True,), "zero points", "give sym=True"), NO_EMBEDDINGS),
        note=_TRANSFORMERS_CT,
    ),
    Entry(
        "vllm",
        "compressed-tensors",
        source=f"{VLLM}/compressed_tensors/schemes/compressed_tensors_wNa16.py:37-54, compressed_tensors_embedding.py",
        since=(
            Since("0.5.1", without="0.5.0.post1", found="compressed_tensors_wNa16.py"),
            Since("0.8.5", without="0.8.4", found="WNA16_ZP_SUPPORTED_TYPES_MAP", field="sym", values=(False,)),
            Since(
                "0.25.0",
                without="0.24.0",
                found="these in WNA16_SUPPORTED_TYPES_MAP",
                field="bits",
                values=(2, 3, 5, 6, 7),
            ),
            FILLS_UP,
            EXPERT_NAMES,
        ),
        limits=(
            WHOLE_EXPERTS,
            Limit("bits", (2, 3, 4, 5, 6, 7, 8), "codes of {got} bits", "give 2 to 8 bits"),
            # Of the class Qwen2 it would: vllm/model_executor/models/llama.py:382 gives the embedding no name to find.
            Limit("embeddings", (None,), "quantized embeddings, which most of its classes do not find", EMBEDDINGS),
            MIXED,
        ),
        note="on a GPU from compute capability 7.5 on; on a processor with 4 bits alone",
        kept_whole=("groups",),
    ),
    Entry(
        "sglang",
        "compressed-tensors",
        source=f"{SGLANG}/compressed_tensors/schemes/compressed_tensors_wNa16.py:53-58, marlin_utils.py:86; {MARLIN}",
        since=(
            Since(
                "0.5.4", without="0.5.3.post3", found="compressed_tensors_wNa16.py; before, those of the vLLM beside it"
            ),
        ),
        limits=(
            WHOLE_EXPERTS,
            Limit("bits", (4, 8), "codes of {got} bits: it takes 4 and 8", "give bits=4 or bits=8"),
            # Its kernel has no others: sglang/kernels/jit/csrc/gemm/marlin/gptq_marlin.cuh:412-424.
            Limit("bits_with_zero_points", (4,), "zero points beside codes of {got} bits", "give sym=True, or 4 bits"),
            Limit("group_sizes", SERVER_GROUPS, "groups of {got}", "give group_size -1, 32, 64 or 128"),
            TILED,
            NO_EMBEDDINGS,
            HIDDEN_EXPERTS,
            MIXED,
        ),
        note="on a GPU from compute capability 8.0 on",
        kept_whole=("groups", "tiles"),
    ),
    Entry(
        "mlx-lm",
        "compressed-tensors",
        source="mlx_lm/utils.py:309-328, 549",
        refused="it looks for weights in MLX's own names",
        remedy="format='mlx' holds the codes",
    ),
    Entry(
        "llama.cpp",
        "compressed-tensors",
        source="llama.cpp conversion/base.py",
        refused="it reads .gguf alone",
        remedy=CONVERTS,
    ),
    Entry(
        "qtoolkit",
        "compressed-tensors",
        source="qtoolkit/formats/compressed_tensors",
        limits=(
            Limit(
                "layout",
                ("", "pack-quantized", "mixed-precision"),
                "weights stored as {got}",
                "load it with transformers",
                is_kept=True,
            ),
            Limit("bits", (2, 3, 4, 5, 6, 8), "codes of {got} bits", "load it with transformers", is_kept=True),
            LARGE_GROUPS,
        ),
    ),
)
