"""The rows of the reader contract on bitsandbytes, MLX, `.gguf`, qtoolkit's own format and full precision."""

from qtoolkit.readers.entry import Entry, Limit, Since
from qtoolkit.readers.shared_limits import SGLANG, VLLM, WHOLE_EXPERTS

_BNB_EXPERTS = Limit(
    "experts",
    ("",),
    "quantized experts of {got}, all of which it holds in one tensor",
    "import qtoolkit before it, or exclude 'experts.*'",
)
_BNB_OWN = Limit(
    "own_linear",
    ("",),
    "quantized layers of {got}, of a class of their own, which it leaves as they are",
    "import qtoolkit before it, or take another method",
)
_BNB_GONE = "vLLM removed bitsandbytes in 0.28.0 (vllm-project/vllm#39583)"
BNB = (
    Entry(
        "transformers",
        "bitsandbytes",
        source="transformers/quantizers/quantizer_bnb_4bit.py; tests/formats/gptq/test_other_readers.py",
        since=(Since("5.0.0", found="quantizer_bnb_4bit.py"),),
        needs="bitsandbytes",
        limits=(_BNB_EXPERTS, _BNB_OWN),
    ),
    Entry(
        "transformers4",
        "bitsandbytes",
        source="transformers/quantizers/quantizer_bnb_4bit.py",
        since=(Since("4.30.0", without="4.29.2", found="load_in_4bit"),),
        needs="bitsandbytes",
        limits=(WHOLE_EXPERTS,),
    ),
    Entry(
        "vllm",
        "bitsandbytes",
        source=f"{VLLM}/__init__.py:15-49",
        since=(Since("0.5.4", without="0.5.3.post1", found="pre-quantized models in loader.py"),),
        until="0.28.0",
        refused=_BNB_GONE,
        remedy="serve it with SGLang, or quantize with GPTQ",
    ),
    Entry(
        "sglang",
        "bitsandbytes",
        source=f"{SGLANG}/__init__.py:76, bitsandbytes.py:156-167",
        since=(
            Since(
                "0.5.8", without="0.5.7", found="a BitsAndBytesConfig of its own; before, that of the vLLM beside it"
            ),
        ),
        needs="bitsandbytes",
    ),
    Entry(
        "peft",
        "bitsandbytes",
        source="peft/tuners/lora/bnb.py",
        since=(Since("0.4.0", without="0.3.0", found="Linear4bit"),),
        needs="bitsandbytes",
        limits=(_BNB_EXPERTS, _BNB_OWN),
    ),
    Entry("qtoolkit", "bitsandbytes", source="qtoolkit/formats/bitsandbytes", needs="bitsandbytes"),
)

_MLX_GROUPS = Limit("group_sizes", (32, 64, 128), "groups of {got}", "give group_size 32, 64 or 128")
_MLX_BITS = Limit("bits", (2, 3, 4, 5, 6, 8), "codes of {got} bits", "give 2, 3, 4, 5, 6 or 8")
# mlx_lm/models/*.py, `sanitize`: the others join the weights of experts, and leave their scales where they are.
_MLX_JOINS = tuple(
    f"{name}ForCausalLM"
    for name in (
        *("Mixtral", "Qwen2Moe", "Olmoe", "Phimoe", "DeepseekV2", "DeepseekV3", "Dots1", "ExaoneMoe"),
        *("Glm4Moe", "Glm4MoeLite", "LongcatFlash"),
    )
)
_MLX_EXPERTS = Limit(
    "experts",
    ("", *_MLX_JOINS),
    "quantized experts of {got}, whose scales it does not join",
    "exclude '*.experts.*', or give format='compressed-tensors'",
)
_MLX_LIMITS = (_MLX_BITS, _MLX_GROUPS, _MLX_EXPERTS)
MLX = (
    Entry(
        "mlx-lm",
        "mlx",
        source="mlx_lm/utils.py:499-519, models/qwen3_moe.py:260-277",
        since=(
            Since("", field="bits", values=(3, 5, 6)),
            Since("0.0.1", found="quantization in utils.py"),
            Since(
                "0.20.3",
                without="0.20.2",
                found="quantization of single layers in utils.py",
                field="widths",
                values=(2, 3, 4, 5, 6),
            ),
        ),
        limits=_MLX_LIMITS,
    ),
    Entry("lm-studio", "mlx", source="lmstudio.ai/docs", limits=_MLX_LIMITS, note="on a Mac"),
    Entry(
        "sglang",
        "mlx",
        source=f"{SGLANG}/mlx.py",
        refused="it reads MLX on a Mac alone, through mlx-lm",
        remedy="set SGLANG_USE_MLX=1 there",
    ),
    Entry("qtoolkit", "mlx", source="qtoolkit/formats"),
)

GGUF = (
    Entry("llama.cpp", "gguf", source="github.com/ggml-org/llama.cpp"),
    Entry("ollama", "gguf", source="docs.ollama.com/import"),
    Entry("lm-studio", "gguf", source="lmstudio.ai/docs"),
    Entry(
        "sglang",
        "gguf",
        source=f"{SGLANG}/gguf.py, __init__.py:77",
        since=(
            Since("0.5.4.post1", without="0.5.4", found="a GGUFConfig of its own; before, that of the vLLM beside it"),
        ),
    ),
    Entry(
        "vllm",
        "gguf",
        source=f"{VLLM}/__init__.py:15-49, vllm-project/vllm#39612",
        since=(Since("0.5.5", without="0.5.4", found="gguf.py"),),
        until="0.24.0",
        refused="vLLM moved .gguf out of its core in 0.24.0",
        remedy="install vllm-gguf-plugin",
    ),
    Entry(
        "transformers",
        "gguf",
        source="transformers/modeling_gguf_pytorch_utils.py",
        since=(Since("5.0.0", found="modeling_gguf_pytorch_utils.py"),),
        needs="gguf",
        note="it expands the codes, of the architectures that it knows; qtoolkit those of all that it writes",
    ),
    Entry(
        "transformers4",
        "gguf",
        source="transformers/modeling_gguf_pytorch_utils.py",
        since=(Since("4.41.0", without="4.40.2", found="modeling_gguf_pytorch_utils.py"),),
        needs="gguf",
        note="it expands the codes, of the architectures that it knows; qtoolkit those of all that it writes",
    ),
    Entry("qtoolkit", "gguf", source="qtoolkit/models/from_gguf.py", needs="gguf", note="it expands the codes"),
)

NATIVE = (Entry("qtoolkit", "native", source="qtoolkit/formats/native"),)

PLAIN = (
    *(Entry(name, "", source="github.com/huggingface/safetensors") for name in ("transformers", "transformers4")),
    *(Entry(name, "", source="github.com/huggingface/safetensors") for name in ("vllm", "sglang", "mlx-lm", "peft")),
    Entry("qtoolkit", "", source="qtoolkit/models"),
)
