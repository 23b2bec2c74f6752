"""The body of a `%%quantize` cell: TOML with the method and its options. IPython expands no variables in it."""

import tomllib
from typing import Any

from qtoolkit.errors import ConfigError, oneline
from qtoolkit.methods import MethodConfig, config_class

DEFAULT_METHOD = "nf4"


def read_body(body: str) -> MethodConfig:
    """The config that a cell's body describes.

    Args:
        body: TOML such as `method = "nf4"` and `double_quant = false`, one option a line; without `method` it is NF4.

    Raises:
        ConfigError: text that is no TOML, a key that the method does not have, a value that it cannot have.
    """
    try:
        return _config(tomllib.loads(body))
    except ConfigError:
        raise
    # Not only syntax: numbers too long for Python to print or for a float, and thousands of open brackets.
    except (ValueError, OverflowError, RecursionError) as error:
        example = 'one option a line, such as method = "nf4" or double_quant = false'
        raise ConfigError(f"the cell's body cannot be read as TOML: {oneline(error)}; write {example}") from error


def _config(values: dict[str, Any]) -> MethodConfig:
    method = values.pop("method", DEFAULT_METHOD)
    if not isinstance(method, str):
        raise ConfigError(f"method must be a method's name in quotes, got {method!r}")
    return config_class(method).from_dict(values)
