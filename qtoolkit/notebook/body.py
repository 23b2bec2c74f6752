"""Read the body of a `%%quantize`, `%%qcompare` or `%%qfrontier` cell: TOML, in which IPython expands no variables."""

import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from qtoolkit.errors import ConfigError, oneline
from qtoolkit.methods import MethodConfig, config_class

DEFAULT_METHOD = "nf4"


def read_body(body: str) -> MethodConfig:
    """Return the config that a cell's body describes.

    Args:
        body: TOML such as `method = "nf4"` and `double_quant = false`, one option a line; without `method` it is NF4.

    Raises:
        ConfigError: the text is no TOML, or has an option that the method does not have, or a wrong value.
    """
    with _clear_errors(f'one option a line, such as method = "{DEFAULT_METHOD}" or exclude = ["lm_head"]'):
        return _config(tomllib.loads(body))


def read_configs(body: str) -> tuple[list[MethodConfig], list[str]]:
    """Return the configs and the prompts that the body of a `%%qcompare` cell describes.

    Args:
        body: TOML with `prompts = ["...", "..."]`, and under each `[[configs]]` what `read_body` takes.

    Raises:
        ConfigError: as `read_body`; or the text has a key that is neither configs nor prompts.
    """
    with _clear_errors(f'[[configs]] and below it method = "{DEFAULT_METHOD}" and its options'):
        values = tomllib.loads(body)
        configs = values.pop("configs", [])
        prompts = values.pop("prompts", [])
        if values:
            raise ConfigError(f"the cell's body has configs and prompts, got {next(iter(values))!r}")
        if not isinstance(configs, list) or not all(isinstance(config, dict) for config in configs):
            raise ConfigError("configs must be tables: write [[configs]] above the options of each")
        if not isinstance(prompts, list) or not all(isinstance(prompt, str) for prompt in prompts):
            raise ConfigError(f"prompts must be a list of texts, got {prompts!r:.60}")
        return [_config(config) for config in configs], prompts


@contextmanager
def _clear_errors(example: str) -> Iterator[None]:
    """Raise one clear error for a body that is no TOML, with an example of how it is written."""
    try:
        yield
    except ConfigError:
        raise
    # Not only syntax: numbers too long for Python to print or for a float, and thousands of open brackets.
    except (ValueError, OverflowError, RecursionError) as error:
        raise ConfigError(f"the cell's body cannot be read as TOML: {oneline(error)}; write {example}") from error


def _config(values: dict[str, Any]) -> MethodConfig:
    method = values.pop("method", DEFAULT_METHOD)
    if not isinstance(method, str):
        raise ConfigError(f"method must be a method's name in quotes, got {method!r}")
    return config_class(method).from_typed(values)
