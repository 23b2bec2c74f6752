"""The rows of the reader contract on weights that are published as floats of 8 and 4 bits: FP8, MXFP4, NVFP4."""

from qtoolkit.readers.entry import Entry, Limit, Since
from qtoolkit.readers.shared_limits import MIXED, SGLANG, VLLM, WHOLE_BLOCKS
from qtoolkit.readers.stored import W4A8

# The classes of mlx_lm/models whose `sanitize` multiplies weights with their scales (deepseek_v3.py, deepseek_v32.py,
# mimo_v2_flash.py, minimax.py, ministral3.py, mistral4.py): others refuse the scales as weights that they do not know.
_MLX_FLOAT8 = tuple(
    f"{name}ForCausalLM"
    for name in ("DeepseekV3", "DeepseekV32", "MiMoV2Flash", "MiniMaxM2", "Ministral3", "Mistral4", "KimiK2")
)


def _classes(weights: str, *architectures: str) -> Limit:
    """Return the condition of mlx-lm, which looks for scales by the names that its code of a class knows."""
    why = f"{weights} weights of {{got}}, for whose scales it has no names"
    return Limit("architecture", ("", *architectures), why, "GPTQ(format='mlx') of the full-precision model is for it")


BLOCK_FLOAT8 = (
    Entry(
        "transformers",
        "fp8",
        source="transformers/quantizers/quantizer_finegrained_fp8.py",
        since=(Since("5.0.0", found="quantizer_finegrained_fp8.py"),),
        note="on a GPU",
    ),
    Entry(
        "transformers4",
        "fp8",
        source="transformers/quantizers/auto.py:84, quantizer_finegrained_fp8.py:47",
        note="on a GPU",
    ),
    Entry(
        "vllm",
        "fp8",
        source=f"{VLLM}/fp8.py",
        since=(Since("0.6.6", without="0.6.5", found="weight_block_size in fp8.py"),),
        limits=(WHOLE_BLOCKS, MIXED),
        kept_whole=("blocks",),
    ),
    Entry(
        "sglang",
        "fp8",
        source=f"{SGLANG}/fp8.py",
        since=(Since("0.4.1", without="0.4.0.post2", found="weight_block_size in fp8.py"),),
        limits=(WHOLE_BLOCKS, MIXED),
        kept_whole=("blocks",),
    ),
    Entry(
        "mlx-lm",
        "fp8",
        source="mlx_lm/utils.py:538-548",
        limits=(_classes("float8", *_MLX_FLOAT8),),
        note="it expands the weights",
    ),
    Entry("qtoolkit", "fp8", source="qtoolkit/checkpoints/source_codes.py", note="it expands the weights"),
)

_EXPANDED = "on a GPU from compute capability 7.5 on; elsewhere it expands the codes"
MXFP4 = (
    Entry(
        "transformers",
        "mxfp4",
        source="transformers/quantizers/quantizer_mxfp4.py:78-121",
        since=(Since("5.0.0", found="quantizer_mxfp4.py"),),
        needs="kernels and triton >= 3.4",
        note=_EXPANDED,
    ),
    Entry(
        "transformers4",
        "mxfp4",
        source="transformers/quantizers/quantizer_mxfp4.py",
        since=(Since("4.55.0", without="4.54.1", found="quantizer_mxfp4.py"),),
        needs="kernels and triton >= 3.4",
        note=_EXPANDED,
    ),
    Entry(
        "vllm",
        "mxfp4",
        source=f"{VLLM}/mxfp4.py:59,146",
        since=(Since("0.10.1", without="0.10.0", found="mxfp4.py"),),
        note="on a GPU from compute capability 8.0 on",
    ),
    Entry(
        "sglang",
        "mxfp4",
        source=f"{SGLANG}/__init__.py:99, mxfp4.py",
        since=(Since("0.5.1", without="0.4.10.post2", found="mxfp4.py"),),
        note="on a GPU from compute capability 8.0 on",
    ),
    Entry(
        "mlx-lm",
        "mxfp4",
        source="mlx_lm/utils.py:528-532, models/gpt_oss.py:227-243",
        limits=(_classes("MXFP4", "GptOssForCausalLM"),),
    ),
    Entry("qtoolkit", "mxfp4", source="qtoolkit/checkpoints/source_codes.py", note="it expands the codes"),
)

# compressed-tensors' `nvfp4-pack-quantized` and `mxfp4-pack-quantized`.
FLOAT4 = (
    *(
        Entry(
            name,
            "compressed-tensors",
            source="transformers/quantizers/quantizer_compressed_tensors.py, compressed_tensors/compressors/nvfp4",
            input_type="float4",
            needs="compressed-tensors",
            note="it expands the codes",
        )
        for name in ("transformers", "transformers4")
    ),
    Entry(
        "vllm",
        "compressed-tensors",
        source=f"{VLLM}/compressed_tensors/compressed_tensors.py:795-812",
        input_type="float4",
        limits=(MIXED,),
        note="on a GPU from compute capability 7.5 on, MXFP4 from 8.0 on",
    ),
    Entry(
        "sglang",
        "compressed-tensors",
        source=f"{SGLANG}/compressed_tensors/compressed_tensors.py, `_get_scheme_from_parts`",
        input_type="float4",
        limits=(Limit("layout", ("nvfp4-pack-quantized",), "weights stored as {got}"), MIXED),
        note="on a GPU from compute capability 8.0 on, with rounded inputs from 10.0 on",
    ),
    Entry(
        "mlx-lm",
        "compressed-tensors",
        source="mlx_lm/utils.py:309-328, 549",
        input_type="float4",
        refused="it looks for weights in MLX's own names",
    ),
    Entry(
        "qtoolkit",
        "compressed-tensors",
        source="qtoolkit/checkpoints/source_codes.py",
        input_type="float4",
        note="it expands the codes",
    ),
)

# Weights of 4 bits whose inputs are rounded to 8.
MIXED_SIZES = (
    *(
        Entry(
            name,
            "compressed-tensors",
            source="run with compressed-tensors 0.20.1: 5.23 raises, and 4.57 computes something else",
            input_type=W4A8,
            refused="it does not find codes of 4 bits beside inputs of 8",
            remedy="serve it with vLLM",
        )
        for name in ("transformers", "transformers4")
    ),
    Entry(
        "vllm",
        "compressed-tensors",
        source=f"{VLLM}/compressed_tensors/compressed_tensors.py:619-655, 817-863",
        input_type=W4A8,
        limits=(Limit("sym", (True,), "zero points"), MIXED),
        note="with inputs in float8 on a GPU of compute capability 9.0 alone",
    ),
    Entry(
        "qtoolkit",
        "compressed-tensors",
        source="qtoolkit/formats/compressed_tensors/config.py",
        input_type=W4A8,
        refused="it does not round inputs beside codes of fewer bits",
        remedy="name the full-precision model",
    ),
)

# transformers' and vLLM's name of what FBGEMM wrote: a scale for each output.
FBGEMM = (
    *(
        Entry(
            name,
            "fbgemm_fp8",
            source="transformers/quantizers/auto.py, quantizer_fbgemm_fp8.py",
            needs="fbgemm-gpu or kernels",
            note="on a GPU",
        )
        for name in ("transformers", "transformers4")
    ),
    Entry(
        "vllm",
        "fbgemm_fp8",
        source=f"{VLLM}/__init__.py:52-55, fbgemm_fp8.py; vllm/config/model.py:1472",
        limits=(MIXED,),
        note="told --allow-deprecated-quantization",
    ),
    Entry("qtoolkit", "fbgemm_fp8", source="qtoolkit/checkpoints/source_codes.py", note="it expands the weights"),
)

# NVIDIA's Model Optimizer; a layout is its `quant_algo`.
_OTHER_ALGORITHM = "weights stored as {got}"
MODELOPT = (
    Entry(
        "vllm",
        "modelopt",
        source=f"{VLLM}/modelopt.py:146-160,396",
        since=(
            Since("0.6.1", without="0.6.0", found="modelopt.py"),
            Since("0.8.0", without="0.7.3", found="ModelOptNvFp4Config there", field="layout", values=("NVFP4",)),
        ),
        limits=(
            Limit(
                "layout",
                (
                    *("", "FP8", "FP8_PER_CHANNEL_PER_TOKEN", "FP8_PB_WO", "NVFP4", "W4A16_NVFP4", "MXFP8"),
                    "MIXED_PRECISION",
                ),
                _OTHER_ALGORITHM,
            ),
            MIXED,
        ),
    ),
    Entry(
        "sglang",
        "modelopt",
        source=f"{SGLANG}/modelopt_quant.py:510, `ModelOptFp4Config.from_config`",
        since=(
            Since("0.4.1.post5", without="0.4.1.post4", found="modelopt_quant.py"),
            Since("0.4.5.post1", without="0.4.5", found="ModelOptFp4Config there", field="layout", values=("NVFP4",)),
        ),
        limits=(
            Limit("layout", ("", "FP8", "NVFP4", "NVFP4_AWQ", "W4A16_NVFP4", "MIXED_PRECISION"), _OTHER_ALGORITHM),
            MIXED,
        ),
        note="on a GPU, FP8 from compute capability 8.9 on",
    ),
    Entry(
        "mlx-lm",
        "modelopt",
        source="mlx_lm/utils.py:554-567, models/muse_spark.py:955-978",
        limits=(
            Limit("layout", ("NVFP4",), _OTHER_ALGORITHM),
            _classes("NVFP4", "MuseSparkForCausalLM"),
        ),
    ),
    Entry(
        "qtoolkit",
        "modelopt",
        source="qtoolkit/checkpoints/other_programs.py",
        refused="it does not read the format",
        remedy="name the full-precision model",
    ),
)
