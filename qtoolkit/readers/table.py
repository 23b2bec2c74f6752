"""The reader contract as data: which program loads which format, under which conditions, and who says so.

Sources were read in the wheels that PyPI served on 2026-11-28; `make readers` reads them again, and tells what moved.
"""

from qtoolkit.readers.eight_bits_table import EIGHT_BITS
from qtoolkit.readers.entry import Entry, Limit, Program

OWN = "qtoolkit"
# How to load a branch: vllm/engine/arg_utils.py:614, sglang/srt/server_args.py, mlx_lm/utils.py:655; the commands of
# mlx-lm have no such option. A subfolder transformers alone takes; vllm-project/vllm#52940 would add one.
BRANCHES = (
    "Each format is a branch of this repository, named after it; the first one is `main`. They are no subfolders, "
    "because vLLM, SGLang and mlx-lm look for a model at the root of a revision, and take the name of a branch."
)
_TRANSFORMERS = 'AutoModelForCausalLM.from_pretrained("{repo}"[, revision="{revision}"])'
_VLLM_SERVE = "vllm serve {repo}[ --revision {revision}]"
_SGLANG_SERVE = "python -m sglang.launch_server --model-path {repo}[ --revision {revision}]"
_MLX_LOAD = 'mlx_lm.load("{repo}"[, revision="{revision}"])'
PROGRAMS = (
    Program("transformers", "transformers", "5.24.0", "transformers/quantizers/auto.py", line=_TRANSFORMERS),
    Program("transformers4", "transformers", "4.57.6", "transformers/quantizers/auto.py", is_rare=True),
    Program("vllm", "vLLM", "0.33.0", "vllm/model_executor/layers/quantization/__init__.py", line=_VLLM_SERVE),
    Program("sglang", "SGLang", "0.5.23", "sglang/srt/layers/quantization/__init__.py", line=_SGLANG_SERVE),
    Program("gptqmodel", "gptqmodel", "7.7.0", "gptqmodel/quantization/config.py", is_rare=True),
    Program(
        "auto-gptq", "auto-gptq", "0.7.1", "auto_gptq/modeling/_base.py", "it reads its own format alone", is_rare=True
    ),
    Program("mlx-lm", "mlx-lm", "0.32.2", "mlx_lm/utils.py", line=_MLX_LOAD),
    Program("llama.cpp", "llama.cpp", "", "github.com/ggml-org/llama.cpp conversion/base.py", "it reads .gguf alone"),
    Program("ollama", "Ollama", "", "docs.ollama.com/import", "it reads .gguf alone, and quantizes none on import"),
    Program("lm-studio", "LM Studio", "", "lmstudio.ai/docs", "it runs llama.cpp and MLX alone"),
    Program(
        "peft", "peft", "0.21.2", "peft/tuners/lora/model.py", "it puts no adapter on them", is_rare=True, runs=False
    ),
    Program(OWN, "qtoolkit", "", "qtoolkit/formats"),
)

_COMPRESSED = "format='compressed-tensors' holds them"
_EMBEDDINGS = "leave embeddings out"
_UNITS = "quantize q, k and v alike, and gate and up alike"
_SERVER_GROUPS = (-1, 32, 64, 128)
_GPTQ_GROUPS = (-1, 16, 32, 64, 128, 256, 512, 1024)
_ONE_WIDTH = Limit("widths", (1,), "layers with different bits: it gives all the same", "give all layers the same bits")
_MIXED = Limit("mixed_units", (), "layers that it fuses are not quantized alike", _UNITS)
_MISNAMED = Limit("misnamed_units", (), "dynamic names layers, where it looks for the fused name", "write it anew")
_NO_EMBEDDINGS = Limit("embeddings", (None,), "quantized embeddings", _EMBEDDINGS)

_VLLM = "vllm/model_executor/layers/quantization"
_SGLANG = "sglang/srt/layers/quantization"
_CONVERTS = "convert_hf_to_gguf.py makes a .gguf of it, expanded to 16 bits"

_GPTQ = (
    Entry(
        "transformers",
        "gptq",
        source="transformers/utils/quantization_config.py:742, quantizers/quantizer_gptq.py:53",
        needs="optimum >= 1.24 and gptqmodel >= 1.4.3",
        limits=(Limit("bits", (2, 3, 4, 8), "GPTQ of {got} bits", _COMPRESSED), _ONE_WIDTH),
        note="with qtoolkit imported it needs neither, and takes different bits too",
    ),
    Entry(
        "transformers4",
        "gptq",
        source="run with optimum 1.27.0 and gptqmodel 5.6.12, which unpacks 3 bits wrongly: interop/read_gptqmodel.py",
        since="4.32",
        needs="optimum >= 1.24, and gptqmodel >= 1.4.3 or auto-gptq",
        limits=(Limit("bits", (2, 4, 8), "GPTQ of {got} bits: it reads 2, 4 and 8 right", _COMPRESSED), _ONE_WIDTH),
    ),
    Entry(
        "vllm",
        "gptq",
        source=f"{_VLLM}/auto_gptq.py:103, utils/gptq_utils.py:23, utils/marlin_utils.py:37",
        limits=(
            Limit("bits", (4, 8), "GPTQ of {got} bits: it takes 4 and 8", _COMPRESSED),
            Limit("sym", (True,), "asymmetric GPTQ", f"give sym=True, or {_COMPRESSED}"),
            Limit("desc_act", (False,), "groups in order of activation (desc_act)", "leave desc_act out"),
            Limit("group_sizes", _SERVER_GROUPS, "GPTQ in groups of {got}", "give group_size -1, 32, 64 or 128"),
            _MIXED,
            _MISNAMED,
        ),
        note="on a processor with 4 bits alone",
    ),
    Entry(
        "sglang",
        "gptq",
        source=f"{_SGLANG}/gptq/gptq.py:297,353, __init__.py:79, marlin_utils.py:44",
        limits=(
            Limit("bits", (4, 8), "GPTQ of {got} bits: it takes 4 and 8", "give bits=4 or bits=8"),
            Limit("sym", (True,), "asymmetric GPTQ", f"give sym=True, or {_COMPRESSED}"),
            Limit("group_sizes", _SERVER_GROUPS, "GPTQ in groups of {got}", "give group_size -1, 32, 64 or 128"),
            _MIXED,
            _MISNAMED,
        ),
    ),
    Entry(
        "gptqmodel",
        "gptq",
        source="gptqmodel/nn_modules/qlinear/torch.py:142-143",
        limits=(
            Limit("bits", (2, 3, 4, 5, 6, 7, 8), "GPTQ of {got} bits"),
            Limit("group_sizes", _GPTQ_GROUPS, "GPTQ in groups of {got}", "give a power of two"),
        ),
    ),
    Entry(
        "auto-gptq",
        "gptq",
        source="auto_gptq/modeling/_base.py:82-100",
        limits=(
            Limit("bits", (2, 3, 4, 8), "GPTQ of {got} bits"),
            _ONE_WIDTH,
            Limit("layout", ("", "gptq"), "zero points stored as {got}", "leave checkpoint_format out"),
            Limit("left", (), "layers of a block that are left as they are", "leave exclude out"),
        ),
        note="of a model whose head is tied to its embedding it leaves both unset, whoever quantized it",
    ),
    Entry(
        "mlx-lm",
        "gptq",
        source="mlx_lm/utils.py:122-127",
        refused="it refuses GPTQ files that have a g_idx",
        remedy="format='mlx' holds the codes",
    ),
    Entry("llama.cpp", "gptq", source="llama.cpp conversion/base.py", refused="it reads .gguf alone", remedy=_CONVERTS),
    Entry(
        "peft",
        "gptq",
        source="peft/import_utils.py:70, tuners/lora/gptq.py",
        needs="optimum >= 1.24 and gptqmodel >= 7.0, which load the model",
        limits=(_ONE_WIDTH,),
        note="adapters are trained on it, and not merged into it",
    ),
    Entry("qtoolkit", "gptq", source="qtoolkit/formats/gptq"),
)

_EXPANDS = Limit(
    "packs_zero_points",
    (False,),
    "packed zero points",
    'write "run_compressed": false into its quantization_config',
)
_PLAIN_EXPERTS = Limit(
    "plain_experts",
    (False,),
    "experts in 16 bits beside quantized layers, which it does not join",
    "quantize the experts too",
)
_TRANSFORMERS_CT = "it expands the codes, so that nothing is saved there; with qtoolkit imported they stay packed"
_CT = (
    Entry(
        "transformers",
        "compressed-tensors",
        source="transformers/quantizers/quantizer_compressed_tensors.py; tests/readers/test_real_readers.py",
        needs="compressed-tensors >= 0.15",
        limits=(_EXPANDS, _NO_EMBEDDINGS, _PLAIN_EXPERTS),
        note=_TRANSFORMERS_CT,
    ),
    Entry(
        "transformers4",
        "compressed-tensors",
        source="run with compressed-tensors 0.20.1: zero points are no longer packed as it packs them",
        needs="compressed-tensors",
        limits=(Limit("sym", (True,), "zero points", "give sym=True"), _NO_EMBEDDINGS),
        note=_TRANSFORMERS_CT,
    ),
    Entry(
        "vllm",
        "compressed-tensors",
        source=f"{_VLLM}/compressed_tensors/schemes/compressed_tensors_wNa16.py:37-54, compressed_tensors_embedding.py",
        limits=(
            Limit("bits", (2, 3, 4, 5, 6, 7, 8), "codes of {got} bits", "give 2 to 8 bits"),
            # Of the class Qwen2 it would: vllm/model_executor/models/llama.py:382 gives the embedding no name to find.
            Limit("embeddings", (None,), "quantized embeddings, which most of its classes do not find", _EMBEDDINGS),
            _MIXED,
        ),
        note="on a GPU from compute capability 7.5 on; on a processor with 4 bits alone",
    ),
    Entry(
        "sglang",
        "compressed-tensors",
        source=f"{_SGLANG}/compressed_tensors/schemes/compressed_tensors_wNa16.py:53-58, marlin_utils.py:86",
        limits=(
            Limit("bits", (4, 8), "codes of {got} bits: it takes 4 and 8", "give bits=4 or bits=8"),
            Limit("group_sizes", _SERVER_GROUPS, "groups of {got}", "give group_size -1, 32, 64 or 128"),
            _NO_EMBEDDINGS,
            _MIXED,
        ),
        note="on a GPU from compute capability 8.0 on",
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
        remedy=f"{_CONVERTS}, if it has groups and one number of bits",
    ),
    Entry(
        "qtoolkit",
        "compressed-tensors",
        source="qtoolkit/formats/compressed_tensors",
        limits=(Limit("layout", ("", "pack-quantized"), "weights stored as {got}", "load it with transformers"),),
    ),
)

_BNB_GONE = "vLLM removed bitsandbytes (vllm-project/vllm#39583)"
_BNB = (
    Entry(
        "transformers",
        "bitsandbytes",
        source="transformers/quantizers/quantizer_bnb_4bit.py; tests/formats/gptq/test_other_readers.py",
        needs="bitsandbytes",
    ),
    Entry(
        "transformers4",
        "bitsandbytes",
        source="transformers/quantizers/quantizer_bnb_4bit.py",
        needs="bitsandbytes",
    ),
    Entry(
        "vllm",
        "bitsandbytes",
        source=f"{_VLLM}/__init__.py:15-49",
        refused=_BNB_GONE,
        remedy="serve it with SGLang, or quantize with GPTQ",
    ),
    Entry("sglang", "bitsandbytes", source=f"{_SGLANG}/__init__.py:76, bitsandbytes.py", needs="bitsandbytes"),
    Entry("peft", "bitsandbytes", source="peft/tuners/lora/bnb.py", needs="bitsandbytes"),
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
_MLX = (
    Entry("mlx-lm", "mlx", source="mlx_lm/utils.py:499-519, models/qwen3_moe.py:260-277", limits=_MLX_LIMITS),
    Entry("lm-studio", "mlx", source="lmstudio.ai/docs", limits=_MLX_LIMITS, note="on a Mac"),
    Entry(
        "sglang",
        "mlx",
        source=f"{_SGLANG}/mlx.py",
        refused="it reads MLX on a Mac alone, through mlx-lm",
        remedy="set SGLANG_USE_MLX=1 there",
    ),
    Entry("qtoolkit", "mlx", source="qtoolkit/formats"),
)

_GGUF = (
    Entry("llama.cpp", "gguf", source="github.com/ggml-org/llama.cpp"),
    Entry("ollama", "gguf", source="docs.ollama.com/import"),
    Entry("lm-studio", "gguf", source="lmstudio.ai/docs"),
    Entry("sglang", "gguf", source=f"{_SGLANG}/gguf.py, __init__.py:77"),
    Entry(
        "vllm",
        "gguf",
        source=f"{_VLLM}/__init__.py:15-49, vllm-project/vllm#39612",
        refused="vLLM moved .gguf out of its core",
        remedy="install vllm-gguf-plugin",
    ),
    *(
        Entry(
            name,
            "gguf",
            source="transformers/modeling_gguf_pytorch_utils.py",
            needs="gguf",
            note="it expands the codes, of the architectures that it knows; qtoolkit those of all that it writes",
        )
        for name in ("transformers", "transformers4")
    ),
    Entry("qtoolkit", "gguf", source="qtoolkit/models/from_gguf.py", needs="gguf", note="it expands the codes"),
)

_FOUR_BITS = Limit("bits", (4,), "AWQ of {got} bits")
_AWQ = (
    Entry(
        "transformers",
        "awq",
        source="transformers/quantizers/quantizer_awq.py",
        needs="gptqmodel",
        note="with qtoolkit imported it needs none",
    ),
    Entry("transformers4", "awq", source="transformers/quantizers/quantizer_awq.py", needs="autoawq"),
    Entry("vllm", "awq", source=f"{_VLLM}/auto_awq.py", limits=(Limit("bits", (4, 8), "AWQ of {got} bits"), _MIXED)),
    Entry("sglang", "awq", source=f"{_SGLANG}/awq/awq.py:84", limits=(_FOUR_BITS, _MIXED)),
    Entry("mlx-lm", "awq", source="mlx_lm/utils.py:113-116, 569", limits=(_FOUR_BITS,)),
    Entry("gptqmodel", "awq", source="gptqmodel/nn_modules/qlinear/torch_awq.py:26"),
    Entry("peft", "awq", source="peft/tuners/lora/awq.py", needs="gptqmodel, which loads the model"),
    Entry(
        "qtoolkit",
        "awq",
        source="qtoolkit/formats/awq",
        limits=(_FOUR_BITS, Limit("layout", ("", "gemm"), "AWQ in version {got}", "load it with gptqmodel")),
    ),
)

_AUTO_ROUND = (
    Entry("transformers", "auto-round", source="transformers/quantizers/quantizer_auto_round.py", needs="auto-round"),
    Entry("vllm", "auto-round", source=f"{_VLLM}/__init__.py:175, inc"),
    Entry("sglang", "auto-round", source=f"{_SGLANG}/__init__.py:86,156, auto_round.py"),
    Entry("qtoolkit", "auto-round", source="qtoolkit/formats/auto_round"),
)

_FP8 = (
    Entry("transformers", "fp8", source="transformers/quantizers/quantizer_finegrained_fp8.py", note="on a GPU"),
    Entry("vllm", "fp8", source=f"{_VLLM}/fp8.py"),
    Entry("sglang", "fp8", source=f"{_SGLANG}/fp8.py"),
    Entry("mlx-lm", "fp8", source="mlx_lm/utils.py:538-548", note="it expands the weights"),
)

_NATIVE = (Entry("qtoolkit", "native", source="qtoolkit/formats/native"),)

_PLAIN = (
    *(Entry(name, "", source="github.com/huggingface/safetensors") for name in ("transformers", "transformers4")),
    *(Entry(name, "", source="github.com/huggingface/safetensors") for name in ("vllm", "sglang", "mlx-lm", "peft")),
    Entry("qtoolkit", "", source="qtoolkit/models"),
)

ENTRIES = (*_GPTQ, *_CT, *EIGHT_BITS, *_BNB, *_MLX, *_GGUF, *_AWQ, *_AUTO_ROUND, *_FP8, *_NATIVE, *_PLAIN)

# The columns of the README's table: formats, what inputs are rounded to, and titles.
COLUMNS = (
    ("gptq", "", "GPTQ"),
    ("compressed-tensors", "", "compressed-tensors (pack-quantized)"),
    ("compressed-tensors", "float8", "FP8"),
    ("compressed-tensors", "int8", "int8 W8A8"),
    ("mlx", "", "MLX"),
    ("bitsandbytes", "", "NF4, FP4, int8"),
    ("native", "", "absmax, zero-point in format native"),
    ("gguf", "", ".gguf"),
)
