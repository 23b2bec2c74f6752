"""Read from a `quantization_config` that weights are stored as FP8, MXFP4 or NVFP4, from which they can be expanded.

Some models are published in these types, and in no other: DeepSeek, MiniMax, gpt-oss. The keys are those of
transformers' `FineGrainedFP8Config` and `Mxfp4Config`, and of compressed-tensors' `float-quantized`,
`mxfp4-pack-quantized` and `nvfp4-pack-quantized`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from qtoolkit.errors import CheckpointError

FP8, MXFP4, NVFP4 = "FP8", "MXFP4", "NVFP4"
_METHODS = {"fp8": FP8, "fbgemm_fp8": FP8, "mxfp4": MXFP4}
# compressed-tensors' names of layouts in which a weight of 8 bits keeps its name and shape.
_UNPACKED = ("float-quantized", "naive-quantized")
# Its layouts of numbers of 4 bits, and how many of them share a scale.
_PACKED = {"mxfp4-pack-quantized": (MXFP4, 32), "nvfp4-pack-quantized": (NVFP4, 16)}
# The largest side of a block: real ones have 128.
_MAX_SIDE = 65_536


@dataclass(frozen=True)
class SourceCodes:
    """How the weights of a source are stored.

    Attributes:
        kind: `FP8`, `MXFP4` or `NVFP4`.
        blocks: the sizes (outputs, inputs) of blocks that share a scale, as far as the config names any.
    """

    kind: str
    blocks: tuple[tuple[int, int], ...] = ()

    def __str__(self) -> str:
        sizes = " or ".join(f"{rows} x {columns}" for rows, columns in self.blocks)
        return f"{self.kind} in blocks of {sizes}" if sizes else self.kind


def source_codes(name: str, values: Any) -> SourceCodes | None:
    """Return how a `quantization_config` says that weights are stored, if they can be expanded from that.

    Args:
        name: what the model is called in the error.
        values: the `quantization_config`, which anybody may have written; None without one.

    Returns:
        None for full precision, and for codes that are not expanded.

    Raises:
        CheckpointError: a size of blocks that none can have.

    Example:
        >>> str(source_codes("org/model", {"quant_method": "fp8", "weight_block_size": [128, 128]}))
        'FP8 in blocks of 128 x 128'
    """
    if not isinstance(values, Mapping):
        return None
    method = values.get("quant_method")
    packed = _PACKED.get(str(values.get("format")))
    if method == "compressed-tensors" and packed is not None:
        kind, group_size = packed
        return SourceCodes(kind) if _all_of_four_bits(values, group_size) else None
    if method == "compressed-tensors":
        schemes = list(_float8_schemes(values))
        if values.get("format") not in _UNPACKED or not schemes or None in schemes:
            return None
        sizes = [_size_of(scheme) for scheme in schemes if scheme is not None]
    elif isinstance(method, str) and method in _METHODS:
        sizes = [values.get("weight_block_size")]
    else:
        return None
    blocks = dict.fromkeys(_block(name, size) for size in sizes if size is not None)
    return SourceCodes(_METHODS.get(method, FP8), tuple(blocks))


def _all_of_four_bits(values: Mapping[str, Any], group_size: int) -> bool:
    """Check whether each group of layers stores its weights as floats of 4 bits, symmetric, in groups of this size."""
    groups = values.get("config_groups")
    schemes = [
        group.get("weights") if isinstance(group, Mapping) else None
        for group in (groups.values() if isinstance(groups, Mapping) else ())
    ]
    expected = {"type": "float", "num_bits": 4, "group_size": group_size, "symmetric": True}
    return bool(schemes) and all(
        isinstance(scheme, Mapping)
        and all({"symmetric": True, **scheme}.get(key) == value for key, value in expected.items())
        for scheme in schemes
    )


def _float8_schemes(values: Mapping[str, Any]) -> Iterator[Mapping[str, Any] | None]:
    """Yield how each group of layers stores its weights; None for a group of other codes than FP8."""
    groups = values.get("config_groups")
    for group in groups.values() if isinstance(groups, Mapping) else ():
        scheme = group.get("weights") if isinstance(group, Mapping) else None
        is_float8 = isinstance(scheme, Mapping) and (scheme.get("type"), scheme.get("num_bits")) == ("float", 8)
        yield scheme if is_float8 else None


def _size_of(scheme: Mapping[str, Any]) -> Any:
    """Return the size of a scheme's blocks as its config has it; None for a scale for each output or the weight."""
    strategy = scheme.get("strategy")
    if strategy == "block":
        return scheme.get("block_structure", "none")
    return [1, scheme.get("group_size")] if strategy == "group" else None


def _block(name: str, size: Any) -> tuple[int, int]:
    """Return the size of a block; raises as `source_codes`."""
    sides = list(size) if isinstance(size, list | tuple) else []
    if len(sides) != 2 or not all(type(side) is int and 0 < side <= _MAX_SIDE for side in sides):
        raise CheckpointError(
            f"{name} has FP8 weights in blocks of {size!r:.40} by its config, which must be two numbers such as "
            "[128, 128]: get the model's own config.json"
        )
    return sides[0], sides[1]
