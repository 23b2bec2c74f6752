"""Ask servers which scheme they take for models in 8 bits: `python -m scripts.eight_bit_schemes FILE`.

FILE is the compressed_tensors.py of vLLM or SGLang. These packages are not imported without a GPU, so the methods that
choose a scheme are taken out of the class and run as they are; what else they name is a stub. compressed-tensors, which
must be importable, reads the configs that qtoolkit writes.
"""

import ast
import builtins
import re
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

CHOOSES = "_get_scheme_from_parts"


class Stub:
    """What a method names beside its arguments: a call makes a scheme or says yes, a question on the platform no."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Make a scheme of a class of such a name; answer anything else."""
        return self if self.name.startswith("CompressedTensors") else not self.name.startswith("is_")

    def __bool__(self) -> bool:
        """Tell whether it is so: `_is_npu` is not, on an NVIDIA GPU."""
        return not self.name.startswith("_is_")

    def __getattr__(self, name: str) -> "Stub":
        """Give what a class or a platform has of this name."""
        return Stub(name)


def chosen_schemes(source: str, groups: dict[str, dict[str, Any]]) -> dict[str, str]:
    """The name of the scheme that a server takes for each config group.

    Args:
        source: the text of its compressed_tensors.py.
        groups: by name, groups of a `quantization_config`, with their `format`.
    """
    quantization = import_module("compressed_tensors.quantization")
    (found,) = (
        node
        for node in ast.parse(source).body
        if isinstance(node, ast.ClassDef) and any(getattr(one, "name", "") == CHOOSES for one in node.body)
    )
    methods = [one for one in found.body if isinstance(one, ast.FunctionDef) and one.name.startswith(("_is_", CHOOSES))]
    for method in methods:
        method.returns = None
        for argument in method.args.args:
            argument.annotation = None
    named = {node.id for method in methods for node in ast.walk(method) if isinstance(node, ast.Name)}
    scope: dict[str, Any] = {name: Stub(name) for name in named if not hasattr(builtins, name)}
    scope |= {name: getattr(quantization, name) for name in named if hasattr(quantization, name)}
    scope |= {"CompressionFormat": import_module("compressed_tensors").CompressionFormat}
    scope |= {"is_activation_quantization_format": Stub("any format")}
    body = ast.ClassDef("Config", [], [], list(methods), [])
    exec(compile(ast.fix_missing_locations(ast.Module([body], [])), CHOOSES, "exec"), scope)  # noqa: S102
    # As on a GPU that is new enough.
    config = type("OnANewGPU", (scope["Config"],), {"_check_scheme_supported": staticmethod(Stub("any scheme"))})()
    schemes = {}
    for name, group in groups.items():
        scheme = quantization.QuantizationScheme.model_validate(group)
        config.quant_format = group["format"]
        schemes[name] = getattr(config, CHOOSES)(scheme.weights, scheme.input_activations).name
    return schemes


def capabilities(root: Path, folder: str) -> dict[str, int]:
    """The least compute capability of a server's schemes of 8 bits, the first that each file names."""
    found = {}
    for name in ("w8a8_fp8", "w8a16_fp8", "w8a8_int8"):
        source = (root / folder / f"compressed_tensors/schemes/compressed_tensors_{name}.py").read_text(
            encoding="utf-8"
        )
        number = re.search(r"def get_min_capability\(cls\)[^:]*:\s*(?:#.*\s*)?return (\d+)", source)
        if number is None:
            raise LookupError(f"{name} names no capability")
        found[name] = int(number[1])
    return found


def written_groups() -> dict[str, dict[str, Any]]:
    """The config groups that qtoolkit writes, one for each way of 8 bits."""
    import qtoolkit as qt
    from qtoolkit.formats.compressed_tensors.config import describe
    from qtoolkit.methods import Layer

    layer = Layer("h.0.q_proj", 256, 256, has_bias=False, itemsize=2, device="cpu")
    configs = {"float8": qt.FP8(), "float8 in blocks": qt.FP8(granularity="block"), "int8": qt.W8A8()}
    groups = {}
    for name, config in configs.items():
        values = describe(config.grid(layer), {}, [], {})
        (group,) = values["config_groups"].values()
        groups[name] = {**group, "format": values["format"]}
    return groups


if __name__ == "__main__":
    print(chosen_schemes(Path(sys.argv[1]).read_text(encoding="utf-8"), written_groups()))
