"""Conditions of programs beside servers, run by their own code where they install; and of splits between GPUs."""

import ast
import re
from pathlib import Path
from typing import Any

import qtoolkit as qt
from qtoolkit.formats.gptq.config import describe
from qtoolkit.readers.programs import PROGRAMS
from qtoolkit.readers.table import ENTRIES
from qtoolkit.readers.tensor_parallel import BY_INPUTS
from scripts.reader_conditions import Condition, allowed
from scripts.wheel_sources import literal, run_in, says

_VLLM = "vllm/model_executor"
_SGLANG = "sglang/srt/layers/quantization"
_SGLANG_SCHEMES = f"{_SGLANG}/compressed_tensors/compressed_tensors.py"
_SGLANG_PACKED = f"{_SGLANG}/compressed_tensors/schemes/compressed_tensors_wNa16.py"
_NAMES_ASKED = 'in [".0.gate_proj", ".0.up_proj", ".0.down_proj"]'
_EXPERTS = "if isinstance(layer, FusedMoE): return GPTQMarlinMoEMethod(self)"
_TRY_MLX = """
import mlx.core as mx
def accepts(bits, size):
    try: mx.eval(mx.quantize(mx.ones((32, 256)), group_size=size, bits=bits)); return True
    except ValueError: return False
sizes = (16, 32, 64, 128, 256)
print([[bits for bits in range(2, 9) if accepts(bits, 64)], [size for size in sizes if accepts(4, size)]])
"""
_TRY_AUTO_GPTQ = """
from auto_gptq import BaseQuantizeConfig
def accepts(bits):
    try: return bool(BaseQuantizeConfig(bits=bits))
    except ValueError: return False
print([bits for bits in range(1, 9) if accepts(bits)])
"""
_TRY_TRANSFORMERS = """
from transformers import GPTQConfig
def accepts(bits):
    try: return bool(GPTQConfig(bits=bits))
    except ValueError: return False
print([bits for bits in range(1, 9) if accepts(bits)])
"""
# q, k and v in 8 bits beside 4, and a block whose gate and up are left.
_PARTS = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
_NAMES = [f"model.layers.{block}.{part}" for block in range(2) for part in _PARTS]
_LEFT = [name for name in _NAMES if "0.mlp.gate" in name or "0.mlp.up" in name]
_LOOKED_UP = {"0.self_attn.qkv_proj": 8, "0.mlp.gate_up_proj": False, "1.mlp.gate_up_proj": 4, "1.mlp.down_proj": 4}


def split_by_inputs(root: Path) -> set[str]:
    """Those of the names that the table knows which vLLM's model classes give to layers whose inputs are split."""
    call = re.compile(r"RowParallelLinear\([^()]*?(?:\([^()]*\)[^()]*?)*prefix=f?\"[^\"]*?\.(\w+)\"")
    folder = root / _VLLM / "models"
    found = {name for file in folder.glob("*.py") for name in call.findall(file.read_text(encoding="utf-8"))}
    return found & set(BY_INPUTS)


def looked_up(root: Path) -> dict[str, Any]:
    """The bits that vLLM's own function gives to matrices that it joins, False for none, by what qtoolkit writes."""
    tree = ast.parse((root / _VLLM / "layers/quantization/utils/gptq_utils.py").read_text(encoding="utf-8"))
    name = "get_dynamic_override"
    body: list[ast.stmt] = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name]
    scope: dict[str, Any] = {"re": re, "AutoGPTQConfig": object}
    exec(compile(ast.Module(body, []), name, "exec"), scope)  # noqa: S102
    bits = {one: 8 if "self_attn" in one else 4 for one in _NAMES if one not in _LEFT}

    class Config:
        dynamic = describe(qt.GPTQ(), bits, _LEFT)["dynamic"]

    return {one: scope[name](Config, f"model.layers.{one}", "bits", 4) for one in _LOOKED_UP}


def listed_by_transformers(root: Path) -> set[str]:
    """Those of the formats that the table knows which transformers lists."""
    names = {str(name) for name in literal(root, "transformers/quantizers/auto.py", "AUTO_QUANTIZER_MAPPING")}
    # It knows them by their bits; of a `.gguf` file it is told by another argument.
    names |= {name.removesuffix("_4bit") for name in names}
    return names & ({entry.format for entry in ENTRIES} - {"gguf"})


def _listed(reader: str) -> set[str]:
    """The formats that the table says a transformers loads from a folder."""
    return {one.format for one in ENTRIES if one.reader == reader and not one.refused} - {"", "gguf"}


OTHERS = (
    Condition(
        "vllm",
        "a group is not cut between GPUs",
        True,
        lambda root: says(
            root,
            f"{_VLLM}/kernels/linear/mixed_precision/marlin.py",
            "c.partition_weight_shape[0] % c.group_size != 0",
        ),
    ),
    Condition("vllm", "layers whose inputs are split between GPUs", set(BY_INPUTS), split_by_inputs),
    Condition("vllm", "GPTQ: dynamic of joined layers, by its own function", _LOOKED_UP, looked_up),
    Condition(
        "sglang",
        "a group is not cut between GPUs",
        True,
        lambda root: says(root, _SGLANG_PACKED, "assert input_size_per_partition % group_size == 0"),
    ),
    Condition(
        "sglang",
        "experts are looked for by one set of names",
        True,
        lambda root: says(root, _SGLANG_SCHEMES, _NAMES_ASKED),
    ),
    Condition(
        "sglang",
        "int8: no experts",
        True,
        lambda root: says(root, _SGLANG_SCHEMES, "Int8 Fused MoE scheme is implemented"),
    ),
    Condition(
        "sglang", "GPTQ: experts are as the model", True, lambda root: says(root, f"{_SGLANG}/gptq/gptq.py", _EXPERTS)
    ),
    Condition(
        "vllm",
        "experts are looked for by the names of their class",
        True,
        lambda root: says(
            root,
            f"{_VLLM}/layers/quantization/compressed_tensors/compressed_tensors_moe/compressed_tensors_moe.py",
            "in ( layer.ckpt_gate_proj_name, layer.ckpt_up_proj_name, layer.ckpt_down_proj_name, )",
        ),
    ),
    *(
        Condition(name, "formats", _listed(name), listed_by_transformers)
        for name in (one.name for one in PROGRAMS if one.title == "transformers")
    ),
    Condition(
        "transformers4",
        "GPTQ: bits, by its own class",
        allowed("transformers4", "gptq", "bits"),
        lambda _: set(run_in(".venv-transformers-4", _TRY_TRANSFORMERS)),
        environment=".venv-transformers-4",
    ),
    Condition(
        "mlx-lm",
        "MLX: bits and groups, by its own function",
        [sorted(allowed("mlx-lm", "mlx", field)) for field in ("bits", "group_sizes")],
        lambda _: run_in(".venv-mlx", _TRY_MLX),
        environment=".venv-mlx",
    ),
    Condition(
        "auto-gptq",
        "GPTQ: bits, by its own class",
        allowed("auto-gptq", "gptq", "bits"),
        lambda _: set(run_in(".venv-auto-gptq", _TRY_AUTO_GPTQ)),
        environment=".venv-auto-gptq",
    ),
)
