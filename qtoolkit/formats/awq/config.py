"""Read the `quantization_config` of AWQ checkpoints.

Sources: AutoAWQ 0.2.9 (models/_config.py), transformers 5.23 (utils/quantization_config.py, AwqConfig), gptqmodel 7.7.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from qtoolkit.errors import CheckpointError, QToolkitError, UnsupportedModelError
from qtoolkit.formats.awq.tensors import BITS

# The version whose layout `AWQTensors` describes.
_GEMM = "gemm"
# Those that every other format holds.
_SMALLEST_GROUP = 32
_WHERE = "load it with gptqmodel, or name the full-precision model"


@dataclass(frozen=True)
class AWQConfig:
    """The options of an AWQ checkpoint.

    Attributes:
        group_size: inputs that share a scale, -1 for all of them.
        left: parts of the names of layers that are not quantized.
    """

    group_size: int
    left: tuple[str, ...] = ()

    def leaves(self, name: str) -> bool:
        """Check whether readers take a layer for one that is not quantized: AutoAWQ and vLLM look for these parts."""
        return any(part in name for part in self.left)


def read_awq_config(values: Mapping[str, Any]) -> AWQConfig:
    """Read a `quantization_config`; keys that are missing have the values that transformers gives them.

    Raises:
        CheckpointError: a value that no AWQ checkpoint can have.
        UnsupportedModelError: a layout, or a number of bits, that is not read here.
    """
    version = next((values[key] for key in ("version", "checkpoint_format", "format") if values.get(key)), _GEMM)
    if values.get("backend") == "llm-awq":
        version = "llm-awq"
    if not isinstance(version, str) or version.lower() != _GEMM:
        raise UnsupportedModelError(f"AWQ is read in version {_GEMM!r}, not {version!r:.40}: {_WHERE}")
    bits = _whole(values, ("bits", "w_bit"), BITS)
    if bits != BITS:
        raise UnsupportedModelError(f"AWQ is read with {BITS} bits, not {bits}: {_WHERE}")
    group_size = _whole(values, ("group_size", "q_group_size"), 128)
    if group_size != -1 and group_size < 1:
        raise CheckpointError(f"the AWQ config has group_size {group_size}: it must be -1 or at least 1")
    left = values.get("modules_to_not_convert") or []
    if not isinstance(left, list) or not all(isinstance(part, str) and part for part in left):
        raise CheckpointError(f"the AWQ config has modules_to_not_convert {left!r:.40}: it must be a list of names")
    return AWQConfig(group_size, tuple(left))


def options_of(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a `quantization_config` says of how codes are stored, as options of a method's config.

    Raises:
        CheckpointError, UnsupportedModelError: as `read_awq_config`; also groups smaller than 32.
    """
    group_size = read_awq_config(values).group_size
    if 0 < group_size < _SMALLEST_GROUP:
        raise UnsupportedModelError(f"AWQ in groups of {group_size} is not read here: {_WHERE}")
    return {"bits": BITS, "group_size": group_size, "sym": False}


def bits_of(values: Mapping[str, Any], names: Iterable[str]) -> dict[str, int]:
    """Return the bits of the layers of these names; empty for a config that is not read here."""
    try:
        read_awq_config(values)
    except QToolkitError:
        return {}
    return dict.fromkeys(names, BITS)


def _whole(values: Mapping[str, Any], keys: tuple[str, ...], default: int) -> int:
    """Return the value of the first of some keys that is there; refuse another type than a whole number."""
    key = next((key for key in keys if values.get(key) is not None), keys[0])
    value = values.get(key)
    if value is None:
        return default
    if type(value) is not int:
        raise CheckpointError(f"the AWQ config has {key} {value!r:.40}: it must be a whole number")
    return value
