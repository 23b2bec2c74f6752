"""What `%quantize?` shows: usage, and every method with its options, made from the configs when somebody asks."""

import textwrap
from collections.abc import Callable, Iterable
from dataclasses import fields
from typing import Any, TypeVar

from qtoolkit.methods import available_methods, get_method
from qtoolkit.notebook.arguments import JOB_OPTIONS
from qtoolkit.notebook.body import DEFAULT_METHOD
from qtoolkit.notebook.options import is_list, option_flags, option_hints, tables

T = TypeVar("T", bound=Callable[..., Any])

_MODEL = (
    "a Hub id (org/name, org/name@revision), a folder, a .gguf file, or a variable that holds one of these or a loaded "
    "model; quotes hold a path with blanks together, {name} and $name are replaced by the variable's value"
)
_RESULT = (
    "The record of the job is returned, not the model, so that Out[] does not keep it in memory: give --into, --output "
    "or both to keep the model."
)


def helped_by(text: Callable[[], str]) -> Callable[[T], T]:
    """Give a magic a help text that is made when it is asked for: IPython looks for `getdoc`."""

    def mark(magic: T) -> T:
        magic.getdoc = text  # type: ignore[attr-defined]
        return magic

    return mark


def quantize_help() -> str:
    """Usage of `%quantize` and `%%quantize`, with all methods and options that there are now."""
    return "\n".join(
        [
            "Quantize a model and return what was done: memory before and after, what was skipped, where it was saved.",
            "",
            "  %quantize MODEL [--method NAME] [options of the method] [options of the job]",
            "  report = %quantize MODEL ...",
            "",
            "  %%quantize MODEL [options of the job]",
            f'  method = "{DEFAULT_METHOD}"                         the body is TOML: the method and its options',
            '  exclude = ["lm_head"]',
            "",
            "%qplan takes the same and only plans.",
            "",
            *entry("MODEL", _MODEL),
            "",
            "Options of the job:",
            *entry("--method NAME", f"one of {', '.join(available_methods())} (default: {DEFAULT_METHOD})"),
            *(line for flag, (value, text) in JOB_OPTIONS.items() for line in entry(f"{flag} {value}".strip(), text)),
            *(line for name in available_methods() for line in ("", *_method(name))),
            "",
            *textwrap.wrap(_RESULT, 110),
        ]
    )


def _method(name: str) -> Iterable[str]:
    try:
        method = get_method(name)
    # Help must not fail because of what another package brings; choosing the method shows the error.
    except Exception as error:  # noqa: BLE001
        return [f"Method {name} cannot be used: {type(error).__name__}: {error}"]
    config = method.config_class
    hints = option_hints(config)
    lines = [f"Method {name}: {method.summary}"]
    for field in fields(config):
        if field.name in tables(config):
            lines += entry(
                f'[{field.name}."PATTERN"]', f"{field.metadata['help']}; only in the body of a %%quantize cell"
            )
            continue
        flag, *negation = option_flags(config, field.name)
        value = "" if negation else " A,B" if is_list(hints[field.name]) else " VALUE"
        lines += entry(", ".join([flag, *negation]) + value, _describe(field.metadata, field.default))
    return lines


def _describe(metadata: Any, default: Any) -> str:
    """`help; choices; unit; default` of a config's field."""
    parts = [metadata.get("help", "")]
    if metadata.get("choices"):
        parts.append(f"one of {', '.join(map(_text, metadata['choices']))}")
    if metadata.get("unit"):
        parts.append(f"in {metadata['unit']}")
    return "; ".join(part for part in parts if part) + f" (default: {_text(default)})"


def _text(value: Any) -> str:
    """A value as it is written on a line."""
    if isinstance(value, tuple):
        return ",".join(map(str, value)) or "none"
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else str(value)


def entry(name: str, text: str) -> list[str]:
    """An option and its help, the help in a column of its own."""
    head, *rest = textwrap.wrap(text, 78) or [""]
    lines = [f"  {name:<30}  {head}"] if len(name) <= 30 else [f"  {name}", f"{'':34}{head}"]
    return [*lines, *(f"{'':34}{line}" for line in rest)]
