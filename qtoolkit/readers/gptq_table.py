"""The rows of the reader contract on integers in groups that are called GPTQ, AWQ and AutoRound."""

from qtoolkit.readers.entry import Entry, Limit, Since
from qtoolkit.readers.shared_limits import (
    COMPRESSED,
    CONVERTS,
    FILLS_UP,
    LARGE_GROUPS,
    MARLIN,
    MIXED,
    SERVER_GROUPS,
    SGLANG,
    TILED,
    VLLM,
    WHOLE_EXPERTS,
)

_GPTQ_GROUPS = (-1, 16, 32, 64, 128, 256, 512, 1024)
# Of its kernels, with which transformers and peft run GPTQ too.
_OF_GPTQMODEL = Limit("group_sizes", _GPTQ_GROUPS, "GPTQ in groups of {got}", "give a power of two")
_FIRST_LAYOUT = ("", "gptq")
_ONE_WIDTH = Limit("widths", (1,), "layers with different bits: it gives all the same", "give all layers the same bits")
_MISNAMED = Limit(
    "misnamed_units", (), "dynamic names layers, where it looks for the fused name", "write it anew", is_kept=True
)
# sglang/srt/layers/quantization/gptq/gptq.py:446 gives experts the options of the whole model, and asks no `dynamic`.
_EXPERTS = (
    Limit("plain_experts", (False,), "experts in 16 bits, which it takes for quantized", "quantize the experts too"),
    Limit("own_experts", (False,), "experts with other options than the model's", "give experts those of the model"),
)

GPTQ = (
    Entry(
        "transformers",
        "gptq",
        source="transformers/utils/quantization_config.py:742, quantizers/quantizer_gptq.py:53",
        since=(Since("5.0.0", found="class GPTQConfig"),),
        needs="optimum >= 1.24 and gptqmodel >= 1.4.3",
        limits=(
            WHOLE_EXPERTS,
            Limit("bits", (2, 3, 4, 8), "GPTQ of {got} bits", COMPRESSED),
            _OF_GPTQMODEL,
            _ONE_WIDTH,
        ),
        note="with qtoolkit imported it needs neither, and takes different bits too",
    ),
    Entry(
        "transformers4",
        "gptq",
        source="run with optimum 1.27.0 and gptqmodel 5.6.12, which takes zero points of 3 bits from the first layout "
        "to the second wrongly: interop/read_gptqmodel.py",
        since=(Since("4.32.0", without="4.31.0", found="class GPTQConfig"),),
        needs="optimum >= 1.24, and gptqmodel >= 1.4.3 or auto-gptq",
        limits=(
            WHOLE_EXPERTS,
            Limit(
                "bits", (2, 4, 8), "GPTQ of {got} bits: it reads 2, 4 and 8 right", COMPRESSED, layouts=_FIRST_LAYOUT
            ),
            Limit("bits", (2, 3, 4, 8), "GPTQ of {got} bits", COMPRESSED),
            _OF_GPTQMODEL,
            _ONE_WIDTH,
        ),
    ),
    Entry(
        "vllm",
        "gptq",
        source=f"{VLLM}/auto_gptq.py:103, utils/gptq_utils.py:23, utils/marlin_utils.py:37,221",
        since=(
            Since("0.2.6", without="0.2.5", found="gptq.py"),
            Since("0.3.3", without="0.3.2", found="bits 2, 3, 4, 8 in gptq.py", field="bits", values=(8,)),
            Since("0.7.3", without="0.7.2", found="dynamic in gptq.py", field="widths", values=(2,)),
            FILLS_UP,
        ),
        limits=(
            WHOLE_EXPERTS,
            Limit("bits", (4, 8), "GPTQ of {got} bits: it takes 4 and 8", COMPRESSED),
            Limit("sym", (True,), "asymmetric GPTQ", f"give sym=True, or {COMPRESSED}"),
            Limit("desc_act", (False,), "groups in order of activation (desc_act)", "leave desc_act out"),
            Limit("group_sizes", SERVER_GROUPS, "GPTQ in groups of {got}", "give group_size -1, 32, 64 or 128"),
            MIXED,
            _MISNAMED,
        ),
        note="on a processor with 4 bits alone",
        kept_whole=("groups",),
    ),
    Entry(
        "sglang",
        "gptq",
        source=f"{SGLANG}/gptq/gptq.py:297,353, __init__.py:79, marlin_utils.py:44; {MARLIN}",
        since=(
            Since(
                "0.4.3.post3",
                without="0.4.3.post2",
                found="a GPTQ config class of its own, with dynamic; before, those of the vLLM beside it",
            ),
        ),
        limits=(
            WHOLE_EXPERTS,
            Limit("bits", (4, 8), "GPTQ of {got} bits: it takes 4 and 8", "give bits=4 or bits=8"),
            *_EXPERTS,
            Limit("sym", (True,), "asymmetric GPTQ", f"give sym=True, or {COMPRESSED}"),
            Limit("group_sizes", SERVER_GROUPS, "GPTQ in groups of {got}", "give group_size -1, 32, 64 or 128"),
            TILED,
            MIXED,
            _MISNAMED,
        ),
        kept_whole=("groups", "tiles"),
    ),
    Entry(
        "gptqmodel",
        "gptq",
        source="gptqmodel/nn_modules/qlinear/torch.py:142-143; models/loader.py:2103",
        limits=(
            Limit("bits", (2, 3, 4, 5, 6, 7, 8), "GPTQ of {got} bits"),
            _OF_GPTQMODEL,
            Limit(
                "sym",
                (True,),
                "zero points in the first layout, which it takes from itself alone",
                "give checkpoint_format='gptq_v2'",
                layouts=_FIRST_LAYOUT,
            ),
        ),
    ),
    Entry(
        "auto-gptq",
        "gptq",
        source="auto_gptq/modeling/_base.py:82-100",
        limits=(
            WHOLE_EXPERTS,
            Limit("bits", (2, 3, 4, 8), "GPTQ of {got} bits"),
            _ONE_WIDTH,
            Limit("layout", _FIRST_LAYOUT, "zero points stored as {got}", "leave checkpoint_format out"),
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
    Entry("llama.cpp", "gptq", source="llama.cpp conversion/base.py", refused="it reads .gguf alone", remedy=CONVERTS),
    Entry(
        "peft",
        "gptq",
        source="peft/import_utils.py:70, tuners/lora/gptq.py",
        since=(Since("0.5.0", without="0.4.0", found="gptq in tuners/lora.py"),),
        needs="optimum >= 1.24 and gptqmodel >= 7.0, which load the model",
        limits=(_OF_GPTQMODEL, _ONE_WIDTH),
        note="adapters are trained on it, and not merged into it",
    ),
    Entry(
        "qtoolkit",
        "gptq",
        source="qtoolkit/formats/gptq/config.py, `read_quantize_config`, `options_of`",
        limits=(
            Limit("bits", (2, 3, 4, 8), "GPTQ of {got} bits", "load it with gptqmodel", is_kept=True),
            Limit("layout", ("", "gptq", "gptq_v2"), "codes stored as {got}", "load it with gptqmodel", is_kept=True),
            LARGE_GROUPS,
        ),
    ),
)

_FOUR_BITS = Limit("bits", (4,), "AWQ of {got} bits")
AWQ = (
    Entry(
        "transformers",
        "awq",
        source="transformers/quantizers/quantizer_awq.py",
        since=(Since("5.0.0", found="quantizer_awq.py"),),
        needs="gptqmodel",
        note="with qtoolkit imported it needs none",
    ),
    Entry(
        "transformers4",
        "awq",
        source="transformers/quantizers/quantizer_awq.py",
        since=(Since("4.35.0", without="4.34.1", found="class AwqConfig"),),
        needs="autoawq",
    ),
    Entry(
        "vllm",
        "awq",
        source=f"{VLLM}/auto_awq.py",
        since=(Since("0.2.0", without="0.1.7", found="awq.py"),),
        limits=(_FOUR_BITS, MIXED),
        kept_whole=("groups",),
    ),
    Entry(
        "sglang",
        "awq",
        source=f"{SGLANG}/awq/awq.py:84",
        since=(
            Since(
                "0.4.4.post3",
                without="0.4.4.post2",
                found="an AWQConfig of its own; before, that of the vLLM beside it",
            ),
        ),
        limits=(_FOUR_BITS, MIXED),
        kept_whole=("groups",),
    ),
    Entry(
        "mlx-lm",
        "awq",
        source="mlx_lm/utils.py:113-116, 382, 569: groups by the shapes of scales",
        since=(Since("0.30.4", without="0.30.2", found="_transform_awq_weights in utils.py"),),
        limits=(_FOUR_BITS, Limit("group_sizes", (32, 64, 128), "AWQ in groups of {got}")),
    ),
    Entry("gptqmodel", "awq", source="gptqmodel/nn_modules/qlinear/torch_awq.py:26"),
    Entry(
        "peft",
        "awq",
        source="peft/tuners/lora/awq.py",
        since=(Since("0.9.0", without="0.8.2", found="tuners/lora/awq.py"),),
        needs="gptqmodel, which loads the model",
    ),
    Entry(
        "qtoolkit",
        "awq",
        source="qtoolkit/formats/awq/config.py",
        limits=(
            _FOUR_BITS,
            Limit("layout", ("", "gemm"), "AWQ in version {got}", "load it with gptqmodel", is_kept=True),
            LARGE_GROUPS,
        ),
    ),
)

# AutoRound's packings: those of GPTQ, and of AWQ. Servers take one name of each.
_AS_GPTQ, _AS_AWQ = ("", "auto_round:auto_gptq"), ("auto_round:auto_awq",)
_SERVER_PACKINGS = Limit("layout", (*_AS_GPTQ, *_AS_AWQ), "codes packed as {got}", "load it with transformers")
_PACKINGS = (*_AS_GPTQ, *_AS_AWQ, "auto_round", "auto_round:gptq", "auto_round:gptqmodel", "auto_round:awq")
AUTO_ROUND = (
    Entry(
        "transformers",
        "auto-round",
        source="transformers/quantizers/quantizer_auto_round.py",
        since=(Since("5.0.0", found="quantizer_auto_round.py"),),
        needs="auto-round",
    ),
    Entry(
        "transformers4",
        "auto-round",
        source="transformers/quantizers/auto.py:85, quantizer_auto_round.py:46",
        needs="auto-round",
    ),
    Entry(
        "vllm",
        "auto-round",
        source=f"{VLLM}/__init__.py:175, inc/schemes/inc_wna16_linear.py:49-84",
        since=(Since("0.9.0", without="0.8.5.post1", found="auto-round in quantization/__init__.py"),),
        limits=(
            _SERVER_PACKINGS,
            Limit("bits", (4, 8), "AutoRound of {got} bits: it takes 4 and 8", layouts=_AS_GPTQ),
            Limit("sym", (True,), "zero points", layouts=_AS_GPTQ),
            Limit("bits", (4,), "AutoRound of {got} bits packed as AWQ", layouts=_AS_AWQ),
            Limit("group_sizes", SERVER_GROUPS, "groups of {got}"),
            MIXED,
        ),
        kept_whole=("groups",),
    ),
    Entry(
        "sglang",
        "auto-round",
        source=f"{SGLANG}/__init__.py:86,156, auto_round.py",
        since=(Since("0.5.4.post2", without="0.5.4.post1", found="auto-round in server_args.py"),),
        limits=(
            _SERVER_PACKINGS,
            Limit("bits", (4, 8), "AutoRound of {got} bits: it takes 4 and 8", layouts=_AS_GPTQ),
            Limit("sym", (True,), "zero points", layouts=_AS_GPTQ),
            Limit("desc_act", (False,), "groups in order of activation", layouts=_AS_GPTQ),
            Limit("bits", (4,), "AutoRound of {got} bits packed as AWQ", layouts=_AS_AWQ),
            Limit("group_sizes", SERVER_GROUPS, "groups of {got}", layouts=_AS_GPTQ),
            TILED,
            MIXED,
        ),
        kept_whole=("groups", "tiles"),
    ),
    Entry(
        "qtoolkit",
        "auto-round",
        source="qtoolkit/formats/auto_round/config.py",
        limits=(
            Limit("layout", _PACKINGS, "codes packed as {got}", "load it with auto-round", is_kept=True),
            Limit("bits", (2, 3, 4, 8), "AutoRound of {got} bits", "load it with auto-round", is_kept=True),
            LARGE_GROUPS,
        ),
    ),
)
