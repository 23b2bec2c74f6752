"""Describe how the result of a config is stored, for the reader contract."""

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

from qtoolkit.methods import MethodConfig, get_method
from qtoolkit.readers import Stored, describe_stored


def stored_of(
    config: MethodConfig,
    layers: Mapping[str, int] = MappingProxyType({}),
    left: Iterable[str] = (),
    *,
    dtype: str = "",
    values: Mapping[str, Any] | None = None,
) -> Stored:
    """Return how the result of a config is, or will be, stored.

    Args:
        config: a method's.
        layers: bits of the quantized layers by their full names, 0 for what the config says; empty where the layers are
            not known.
        left: full names of the modules that are not quantized.
        dtype: type of what is not quantized, "bfloat16"; empty where it is not known.
        values: the `quantization_config` of the result; None before there is one.
    """
    method = get_method(config.method)
    own = method.code_bits or 0
    return describe_stored(
        config.format,
        {"bits": method.code_bits, **config.to_dict()},
        {name: bits or own or getattr(config.of(name), "bits", 0) for name, bits in layers.items()},
        left,
        sym=method.symmetric,
        dtype=dtype,
        values=values,
    )
