"""Compare the reader contract with the newest wheels of its programs: `python -m scripts.check_readers FOLDER`.

Downloads the wheels into FOLDER, those alone that are not there yet, unpacks their Python files, and reads what the
tables of `qtoolkit/readers/` say from their sources; config classes that import without a GPU are run. Prints a
line for each condition, and what moved; ends with 1 where a condition did.
"""

import argparse
import ast
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from qtoolkit.readers import FUSED
from qtoolkit.readers.matrices import TILES
from qtoolkit.readers.programs import PROGRAMS
from qtoolkit.readers.table import ENTRIES
from scripts.eight_bit_schemes import capabilities
from scripts.reader_conditions import Condition, allowed
from scripts.split_conditions import OTHERS
from scripts.wheel_sources import literal, python_of, run, says, tiles, unpacked

# What pip is asked for, by the names of the table where programs have some.
PACKAGES = {
    name: name for name in ("vllm", "sglang", "compressed-tensors", "mlx-lm", "gptqmodel", "transformers", "peft")
}
PACKAGES |= {"transformers4": "transformers<5"}
_VLLM = "vllm/model_executor/layers/quantization"
_SGLANG = "sglang/srt/layers/quantization"


def listed(reader: str) -> set[str]:
    """The formats of transformers' kind that the table says a program loads."""
    return {entry.format for entry in ENTRIES if entry.reader == reader and entry.format and not entry.refused}


def schemes(root: Path, folder: str) -> Any:
    """Which scheme a server's own config class takes for each way of 8 bits that qtoolkit writes."""
    file = root / folder / "compressed_tensors/compressed_tensors.py"
    ask = "from scripts.eight_bit_schemes import chosen_schemes, written_groups"
    return run(root, f"{ask}; print(chosen_schemes(open({str(file)!r}).read(), written_groups()))")


def mlx_formats(root: Path) -> set[str]:
    """The formats of compressed-tensors that mlx-lm's own function accepts, of those that hold integers."""
    tree = ast.parse((root / "mlx_lm/utils.py").read_text(encoding="utf-8"))
    name = "_compressed_tensors_quantization"
    body: list[ast.stmt] = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name]
    scope: dict[str, Any] = {}
    exec(compile(ast.Module(body, []), name, "exec"), scope)  # noqa: S102
    accepted = set()
    for one in ("pack-quantized", "int-quantized", "float-quantized", "naive-quantized"):
        try:
            if scope[name]({"format": one})["bits"]:
                accepted.add(one)
        except ValueError:
            continue
    return accepted


_TRY_BITS = """
from transformers import GPTQConfig
def accepts(bits):
    try: return bool(GPTQConfig(bits=bits))
    except ValueError: return False
print([bits for bits in range(1, 9) if accepts(bits)])
"""
_TRY_PACKING = """
import torch
from compressed_tensors.quantization import QuantizationArgs
from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32, unpack_from_int32
def accepts(bits):
    QuantizationArgs(num_bits=bits, type="int", symmetric=True, strategy="group", group_size=32)
    codes = torch.randint(-2 ** (bits - 1), 2 ** (bits - 1), (2, 32), dtype=torch.int8)
    return torch.equal(unpack_from_int32(pack_to_int32(codes, bits), bits, codes.shape), codes)
print([bits for bits in range(2, 9) if accepts(bits)])
"""
_TRY_EIGHT_BITS = """
from transformers import CompressedTensorsConfig, FineGrainedFP8Config
from scripts.eight_bit_schemes import written_groups
read = {name: CompressedTensorsConfig(format=group["format"], config_groups={"group_0": group})
        for name, group in written_groups().items()}
kinds = {name: one.quantization_config.config_groups["group_0"].weights.type for name, one in read.items()}
print({**{name: str(getattr(kind, "value", kind)) for name, kind in kinds.items()},
       "fp8": list(FineGrainedFP8Config(weight_block_size=[128, 128]).weight_block_size)})
"""
_SCHEMES = {
    "float8": "CompressedTensorsW8A8Fp8",
    "float8 in blocks": "CompressedTensorsW8A8Fp8",
    "int8": "CompressedTensorsW8A8Int8",
}
_NO_DESC_ACT = 'GPTQ group activation ordering (desc_act=True) is no longer "\n"supported'
_JOINS = "sizes_to_check = output_partition_sizes[:-1]"
CONDITIONS = (
    Condition(
        "vllm",
        "formats",
        {"gptq", "compressed-tensors", "awq", "fp8", "fbgemm_fp8", "mxfp4", "modelopt"},
        lambda root: _names(root, "vllm"),
    ),
    Condition(
        "vllm",
        "GPTQ: bits and sym",
        {(bits, True) for bits in allowed("vllm", "gptq", "bits")},
        lambda root: set(literal(root, f"{_VLLM}/auto_gptq.py", "TYPE_MAP")),
    ),
    Condition(
        "vllm",
        "GPTQ: groups",
        allowed("vllm", "gptq", "group_sizes"),
        lambda root: set(literal(root, f"{_VLLM}/utils/marlin_utils.py", "MARLIN_SUPPORTED_GROUP_SIZES")),
    ),
    Condition(
        "vllm", "GPTQ: refuses desc_act", True, lambda root: says(root, f"{_VLLM}/utils/gptq_utils.py", _NO_DESC_ACT)
    ),
    Condition(
        "vllm",
        "compressed-tensors: bits",
        allowed("vllm", "compressed-tensors", "bits"),
        lambda root: set(
            literal(
                root,
                f"{_VLLM}/compressed_tensors/schemes/compressed_tensors_wNa16.py",
                "WNA16_SUPPORTED_TYPES_MAP",
            )
        ),
    ),
    Condition(
        "vllm",
        "Model Optimizer: algorithms",
        allowed("vllm", "modelopt", "layout") - {"", "MIXED_PRECISION"},
        lambda root: set(literal(root, f"{_VLLM}/modelopt.py", "LINEAR_ALGOS")),
    ),
    Condition("sglang", "MXFP4", True, lambda root: says(root, f"{_SGLANG}/__init__.py", '"mxfp4": Mxfp4Config,')),
    Condition(
        "vllm",
        "fused layers",
        {unit for parts, unit in FUSED.items() if {"q_proj", "up_proj"}.intersection(parts)},
        lambda root: set(literal(root, "vllm/model_executor/models/llama.py", "packed_modules_mapping")),
    ),
    Condition(
        "sglang",
        "formats",
        {"bitsandbytes", "gguf", "gptq", "compressed-tensors", "awq", "fp8", "auto-round", "modelopt"},
        lambda root: _names(root, "sglang"),
    ),
    Condition(
        "sglang",
        "GPTQ: bits and sym",
        {(bits, True) for bits in allowed("sglang", "gptq", "bits")},
        lambda root: set(literal(root, f"{_SGLANG}/gptq/gptq.py", "TYPE_MAP")),
    ),
    Condition(
        "sglang",
        "GPTQ: groups",
        allowed("sglang", "gptq", "group_sizes"),
        lambda root: set(literal(root, f"{_SGLANG}/marlin_utils.py", "MARLIN_SUPPORTED_GROUP_SIZES")),
    ),
    Condition(
        "sglang",
        "compressed-tensors: bits",
        allowed("sglang", "compressed-tensors", "bits"),
        lambda root: set(
            literal(
                root,
                f"{_SGLANG}/compressed_tensors/schemes/compressed_tensors_wNa16.py",
                "WNA16_SUPPORTED_TYPES_MAP",
            )
        ),
    ),
    Condition("sglang", "Marlin: sizes of matrices", set(TILES), tiles),
    Condition(
        "vllm",
        "Marlin: fills sizes up",
        True,
        lambda root: says(root, "vllm/model_executor/kernels/linear/mixed_precision/marlin.py", "marlin_padded_nk("),
    ),
    Condition("vllm", "FP8: joins whole blocks", True, lambda root: says(root, f"{_VLLM}/utils/fp8_utils.py", _JOINS)),
    Condition("sglang", "FP8: joins whole blocks", True, lambda root: says(root, f"{_SGLANG}/fp8_utils.py", _JOINS)),
    # As the notes of the rows say; expanded to 16 bits where float8 is not multiplied.
    Condition("vllm", "8 bits: schemes, by its own class", _SCHEMES, lambda root: schemes(root, _VLLM)),
    Condition("sglang", "8 bits: schemes, by its own class", _SCHEMES, lambda root: schemes(root, _SGLANG)),
    Condition(
        "vllm",
        "8 bits: compute capability",
        {"w8a8_fp8": 89, "w8a16_fp8": 75, "w8a8_int8": 75},
        lambda root: capabilities(root, _VLLM),
    ),
    Condition(
        "sglang",
        "8 bits: compute capability",
        {"w8a8_fp8": 89, "w8a16_fp8": 80, "w8a8_int8": 80},
        lambda root: capabilities(root, _SGLANG),
    ),
    Condition("vllm", "FP8 in blocks", True, lambda root: says(root, f"{_VLLM}/fp8.py", '"weight_block_size"')),
    Condition("sglang", "FP8 in blocks", True, lambda root: says(root, f"{_SGLANG}/fp8.py", '"weight_block_size"')),
    Condition(
        "transformers",
        "8 bits, by its own classes",
        {"float8": "float", "float8 in blocks": "float", "int8": "int", "fp8": [128, 128]},
        lambda root: run(root, _TRY_EIGHT_BITS),
    ),
    Condition(
        "gptqmodel",
        "GPTQ: bits",
        allowed("gptqmodel", "gptq", "bits"),
        lambda root: set(literal(root, "gptqmodel/nn_modules/qlinear/torch.py", "SUPPORTS_BITS")),
    ),
    Condition(
        "gptqmodel",
        "GPTQ: groups",
        allowed("gptqmodel", "gptq", "group_sizes"),
        lambda root: set(literal(root, "gptqmodel/nn_modules/qlinear/torch.py", "SUPPORTS_GROUP_SIZE")),
    ),
    Condition("mlx-lm", "GPTQ: refuses a g_idx", True, lambda root: says(root, "mlx_lm/utils.py", "(g_idx) are not")),
    Condition("mlx-lm", "compressed-tensors: formats, none of 8 bits", {"pack-quantized"}, mlx_formats),
    Condition(
        "transformers",
        "GPTQ: bits, by its own class",
        allowed("transformers", "gptq", "bits"),
        lambda root: set(run(root, _TRY_BITS)),
    ),
    Condition(
        "compressed-tensors",
        "widths, by its own packing",
        allowed("vllm", "compressed-tensors", "bits"),
        lambda root: set(run(root, _TRY_PACKING)),
    ),
    Condition(
        "peft",
        "GPTQ: needs gptqmodel 7.0",
        True,
        lambda root: says(root, "peft/import_utils.py", 'GPTQMODEL_MINIMUM_VERSION = packaging.version.parse("7.0.0")'),
    ),
)


def _names(root: Path, reader: str) -> set[str]:
    """Those of the formats that the table knows which a server lists."""
    if reader == "vllm":
        names = set(literal(root, f"{_VLLM}/__init__.py", "QuantizationMethods"))
    else:
        names = set(literal(root, f"{_SGLANG}/__init__.py", "BASE_QUANTIZATION_METHODS"))
    # On a GPU, SGLang takes GPTQ by the name of its kernel.
    names |= {"gptq"} & {name.removesuffix("_marlin") for name in names}
    return names & {entry.format for entry in ENTRIES}


def moved(roots: dict[str, Path], conditions: Iterable[Condition] = CONDITIONS) -> list[str]:
    """What the sources say otherwise than the table, a line each.

    Args:
        roots: the folder of each program's sources.
        conditions: what is compared.
    """
    lines = []
    for one in conditions:
        try:
            found = one.found(roots[one.reader])
        except (LookupError, OSError, SyntaxError, ValueError) as error:
            lines.append(f"{one.reader}, {one.what}: cannot be read there any more ({error})")
            continue
        if found != one.table:
            lines.append(f"{one.reader}, {one.what}: the table says {one.table}, and its sources {found}")
    return lines


def main() -> None:
    """Download, compare, tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder.resolve()
    known = {program.name: program.version for program in PROGRAMS}
    roots = {}
    for package, wanted in PACKAGES.items():
        version, roots[package] = unpacked(folder, package, wanted)
        state = "as in the table" if known.get(package) in (version, None) else f"the table has {known[package]}"
        print(f"{package} {version}: {state}", flush=True)
    conditions = [one for one in (*CONDITIONS, *OTHERS) if not one.environment or python_of(one.environment).is_file()]
    for one in OTHERS:
        if one not in conditions:
            print(f"{one.reader}, {one.what}: not run without `make {one.environment}/.ready`")
    # What is run in an environment is no wheel's.
    lines = moved({"auto-gptq": Path()} | roots, conditions)
    print(f"{len(conditions) - len(lines)} of {len(conditions)} conditions are as in the table")
    for line in lines:
        print(f"MOVED {line}")
    sys.exit(bool(lines))


if __name__ == "__main__":
    main()
