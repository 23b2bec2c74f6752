"""Write what `%quantize?` and `%quantize --help` show: examples, and the options of one method, made when asked for."""

import inspect
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import fields
from functools import partial
from typing import Any, TypeVar

from qtoolkit.methods import available_methods, get_method
from qtoolkit.notebook.lines import MAGICS, method_in
from qtoolkit.notebook.options import LineOption, config_options, tables

T = TypeVar("T", bound=Callable[..., Any])

# Columns of a cell's output beside the file browser of JupyterLab on a laptop.
WIDTH = 88
_COLUMN = 28


def helped_by(magic: str) -> Callable[[T], T]:
    """Give a magic a help of its docstring and its options, made when somebody asks: IPython looks for `getdoc`.

    Args:
        magic: the magic's name without `%`.
    """

    def mark(function: T) -> T:
        function.getdoc = partial(help_of, magic, inspect.getdoc(function) or "")  # type: ignore[attr-defined]
        return function

    return mark


def asks_for_help(line: str) -> bool:
    """Check whether a line has `--help` or `-h`."""
    return not {"--help", "-h"}.isdisjoint(line.split())


def help_of(magic: str, usage: str, line: str = "") -> str:
    """Write the help of a magic, at most `WIDTH` columns wide: its usage with examples, then its options.

    Args:
        magic: the magic's name without `%`.
        usage: its docstring; lines that are indented are examples, and stay as they are.
        line: what stands on the magic's line, which may choose a method, whose options are shown.
    """
    parts = [_wrapped(usage)]
    syntax = MAGICS.get(magic)
    if syntax is None:
        return parts[0]
    if syntax.has_method:
        parts.append(_method(_chosen(line)))
        others = ", ".join(available_methods())
        parts.append(_wrapped(f"The methods are {others}: `%{magic} --method NAME --help` shows the options of one."))
    parts.append("\n".join(["Options of the job:" if syntax.has_method else "Options:", *_entries(syntax.options)]))
    if "--methods" in {flag for option in syntax.options for flag in option.flags}:
        parts.append(
            _wrapped(f"Methods: {', '.join(available_methods())}; `%quantize --method NAME --help` tells of one.")
        )
    return "\n\n".join(parts)


def _chosen(line: str) -> str:
    """Return the method that a line chooses, or the default one where it chooses none that exists."""
    name = method_in(line.split())
    key = name.replace("-", "_").lower()
    return key if key in available_methods() else method_in([])


def _wrapped(text: str) -> str:
    """Break paragraphs at the width; indented lines stay as they are."""
    paragraphs = []
    for paragraph in text.split("\n\n"):
        is_example = any(line.startswith(" ") for line in paragraph.splitlines())
        paragraphs.append(paragraph if is_example else textwrap.fill(paragraph, WIDTH, break_on_hyphens=False))
    return "\n\n".join(paragraphs)


def _method(name: str) -> str:
    try:
        method = get_method(name)
    # Help must not fail because of another package; choosing the method shows the error.
    except Exception as error:  # noqa: BLE001
        return _wrapped(f"Method {name} cannot be used: {type(error).__name__}: {error}")
    config = method.config_class
    help_texts = {field.name: field.metadata["help"] for field in fields(config)}
    lines = [_wrapped(f"Method {name}: {method.summary}"), *_entries(config_options(config))]
    for table in tables(config):
        lines += _entry(f'[{table}."PATTERN"]', f"{help_texts[table]}; only in the body of a %%quantize cell")
    return "\n".join(lines)


def _entries(options: Sequence[LineOption]) -> list[str]:
    return [line for option in options for line in _entry(f"{', '.join(option.flags)} {option.metavar}", option.help)]


def _entry(name: str, text: str) -> list[str]:
    """Write an option and its help as lines, the help in a column of its own."""
    head, *rest = textwrap.wrap(text, WIDTH - _COLUMN, break_on_hyphens=False) or [""]
    name = f"  {name.strip()}"
    lines = [f"{name:<{_COLUMN}}{head}"] if len(name) < _COLUMN else [name, f"{'':{_COLUMN}}{head}"]
    return [*lines, *(f"{'':{_COLUMN}}{line}" for line in rest)]
