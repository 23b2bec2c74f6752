"""Make fields for the keywords of a verb from its request, and read them as the arguments of a call."""

from collections.abc import Iterable, Sequence
from typing import Any

from ipywidgets import Textarea

from qtoolkit.notebook.panels.field import Field, choice_field, switch_field, text_field, wide_field
from qtoolkit.notebook.panels.path_field import path_field
from qtoolkit.requests import Request, arguments_of


def keyword_field(
    request: type[Request],
    keyword: str,
    label: str,
    value: str = "",
    *,
    hint: str = "",
    menu: Sequence[tuple[str, Any]] = (),
    suffixes: Sequence[str] = (),
) -> Field:
    """Make the field of a keyword: a box to tick, several lines for a list, a menu, a path, or a line of text.

    Args:
        request: the class of the verb's request.
        keyword: the name of the keyword.
        label: stands before the field.
        value: the text that it has at first; empty for the verb's default.
        hint: stands behind the field; empty for the keyword's help.
        menu: label and value of each entry, the first of which is chosen; empty for no menu.
        suffixes: endings of the files that it may name; empty for no path.
    """
    option = next(option for option in arguments_of(request) if option.name == keyword)
    empty = option.metadata["empty"]
    hint = hint or option.metadata["help"] + (f"; empty for {empty}" if option.default is None and empty else "")
    if menu:
        field = choice_field(label, menu, menu[0][1], hint=hint)
    elif isinstance(option.default, bool):
        field = switch_field(label, value=option.default)
    elif isinstance(option.default, tuple):
        field = wide_field(Textarea, label, f"{hint}; one a line", rows=3)
    elif suffixes:
        field = path_field(label, value or str(option.default or ""), hint=hint, suffixes=suffixes)
    else:
        field = text_field(label, value or str(option.default or ""), hint=hint)
    field.keyword = keyword
    field.default = option.default
    return field


def given_options(fields: Iterable[Field]) -> dict[str, Any]:
    """Return the keyword arguments of a call, without those that are empty or the verb's default.

    Raises:
        ConfigError: a text is no whole number; the message is shown beside its field too.
    """
    values = {field.keyword: (_argument(field), field.default) for field in fields if field.keyword}
    return {keyword: value for keyword, (value, default) in values.items() if value not in ("", [], default)}


def _argument(field: Field) -> Any:
    if isinstance(field.default, tuple):
        return [line for line in field.value.splitlines() if line.strip()]
    return field.count() if type(field.default) is int else field.value
