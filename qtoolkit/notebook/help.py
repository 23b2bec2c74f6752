"""Write what `%quantize?` shows: usage, options, and those of every method, made when somebody asks for it."""

import inspect
import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields
from functools import partial
from typing import Any, TypeVar

from qtoolkit.methods import available_methods, get_method
from qtoolkit.notebook.body import DEFAULT_METHOD
from qtoolkit.notebook.lines import MAGICS
from qtoolkit.notebook.options import LineOption, config_options, tables

T = TypeVar("T", bound=Callable[..., Any])


def helped_by(magic: str, usage: Callable[..., Any] | None = None) -> Callable[[T], T]:
    """Give a magic a help of its docstring and its options, made when somebody asks: IPython looks for `getdoc`.

    Args:
        magic: the magic whose options it has.
        usage: the function whose docstring it has; None for the magic's own.
    """

    def mark(function: T) -> T:
        function.getdoc = partial(help_of, magic, inspect.getdoc(usage or function) or "")  # type: ignore[attr-defined]
        return function

    return mark


def help_of(magic: str, usage: str) -> str:
    """Write the help of a magic: usage and options, and for `%quantize` all methods with theirs."""
    methods = ", ".join(available_methods())
    options = _entries(MAGICS[magic].options)
    if magic == "quantize":
        method = f"one of {methods} (default: {DEFAULT_METHOD})"
        options = ["Options of the job:", *_entry("--method NAME", method), *options]
        options += [line for name in available_methods() for line in ("", *_method(name))]
    if magic in ("qcompare", "qfrontier"):
        options += ["", *textwrap.wrap(f"Methods: {methods}; `%quantize?` lists the options of each.", 110)]
    return "\n".join([usage, "", *options])


def _method(name: str) -> list[str]:
    try:
        method = get_method(name)
    # Help must not fail because of another package; choosing the method shows the error.
    except Exception as error:  # noqa: BLE001
        return [f"Method {name} cannot be used: {type(error).__name__}: {error}"]
    config = method.config_class
    help_texts = {field.name: field.metadata["help"] for field in fields(config)}
    lines = [f"Method {name}: {method.summary}", *_entries(config_options(config))]
    for table in tables(config):
        lines += _entry(f'[{table}."PATTERN"]', f"{help_texts[table]}; only in the body of a %%quantize cell")
    return lines


def _entries(options: Sequence[LineOption]) -> list[str]:
    return [line for option in options for line in _entry(f"{', '.join(option.flags)} {option.metavar}", option.help)]


def _entry(name: str, text: str) -> Iterable[str]:
    """Write an option and its help as lines, the help in a column of its own."""
    head, *rest = textwrap.wrap(text, 78) or [""]
    name = name.strip()
    lines = [f"  {name:<30}  {head}"] if len(name) <= 30 else [f"  {name}", f"{'':34}{head}"]
    return [*lines, *(f"{'':34}{line}" for line in rest)]
