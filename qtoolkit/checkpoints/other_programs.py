"""Know how other programs call the ways in which they store codes, and say in one line what such a checkpoint is.

Names are those of `quant_method` in `config.json`: of transformers 5.23 (quantizers/auto.py), vLLM 0.33 and SGLang
0.5.23 (their quantization/__init__.py), gptqmodel 7.7, exllamav2 and exllamav3.
"""

from collections.abc import Mapping
from typing import Any

from qtoolkit.errors import UnsupportedModelError

_TRANSFORMERS = "transformers and the package"
_MODELOPT = ("NVIDIA's Model Optimizer (FP8, NVFP4 or W4A8)", "vLLM, SGLang or TensorRT-LLM")
# quant_method -> what it is, and what loads it.
_STORED_AS = {
    "aqlm": ("AQLM", f"{_TRANSFORMERS} aqlm"),
    "bitnet": ("BitNet, weights of -1, 0 and 1", "transformers"),
    "eetq": ("EETQ, int8", f"{_TRANSFORMERS} kernels"),
    "exl2": ("EXL2", "exllamav2 or TabbyAPI"),
    "exl3": ("EXL3", "exllamav3 or TabbyAPI"),
    "fouroversix": ("Four over Six, NVFP4", f"{_TRANSFORMERS} fouroversix"),
    "fp_quant": ("FP-Quant, MXFP4 or NVFP4", f"{_TRANSFORMERS} fp_quant"),
    "gguf": ("GGUF", "llama.cpp; a .gguf file is named by its path"),
    "higgs": ("HIGGS", f"{_TRANSFORMERS} flute-kernel"),
    "hqq": ("HQQ", f"{_TRANSFORMERS} hqq"),
    "marlin": ("Marlin", "vLLM 0.6 or gptqmodel"),
    "metal": ("transformers' affine codes for Macs", f"{_TRANSFORMERS} kernels on a Mac"),
    "modelopt": _MODELOPT,
    "modelopt_fp4": _MODELOPT,
    "modelopt_mixed": _MODELOPT,
    "mxfp8": ("MXFP8", "transformers on a GPU, vLLM or SGLang"),
    "nvfp4": ("NVFP4", "vLLM, SGLang or transformers on a GPU"),
    "petit_nvfp4": ("NVFP4", "SGLang"),
    "qqq": ("QQQ, W4A8", "gptqmodel"),
    "quanto": ("Quanto", f"{_TRANSFORMERS} optimum-quanto"),
    "quark": ("AMD Quark", f"{_TRANSFORMERS} amd-quark, vLLM or SGLang"),
    "sinq": ("SINQ", f"{_TRANSFORMERS} sinq"),
    "spqr": ("SpQR", f"{_TRANSFORMERS} spqr_quant"),
    "torchao": ("torchao", f"{_TRANSFORMERS} torchao, vLLM or SGLang"),
    "vptq": ("VPTQ", f"{_TRANSFORMERS} vptq"),
    "w8a8_fp8": ("W8A8 in FP8", "SGLang"),
    "w8a8_int8": ("W8A8 in int8", "SGLang"),
}


def refuse_stored(name: str, values: Mapping[str, Any]) -> None:
    """Refuse a checkpoint that no format here reads: what it is, what loads it, and what to name instead.

    Args:
        name: what the model is called.
        values: its `quantization_config`, which anybody may have written.

    Raises:
        UnsupportedModelError: always.

    Example:
        >>> refuse_stored("org/model", {"quant_method": "hqq"})
        Traceback (most recent call last):
        ...
        qtoolkit.errors.UnsupportedModelError: org/model is stored as HQQ, which is not read here: load it with \
transformers and the package hqq, or name the full-precision model
    """
    method = values.get("quant_method")
    known = _STORED_AS.get(method.lower()) if isinstance(method, str) else None
    if known is None:
        raise UnsupportedModelError(
            f"{name} is stored in a way that is not known here (quant_method {method!r:.40}): load it with the program "
            "that made it, or name the full-precision model"
        )
    what, where = known
    raise UnsupportedModelError(
        f"{name} is stored as {what}, which is not read here: load it with {where}, or name the full-precision model"
    )
