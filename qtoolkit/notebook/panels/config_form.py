"""Make fields for a method and its options from the method's config class."""

import re
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

from ipywidgets import VBox

from qtoolkit.errors import ConfigError
from qtoolkit.methods import MethodConfig, available_methods, get_method
from qtoolkit.notebook.body import DEFAULT_METHOD
from qtoolkit.notebook.options import is_list, is_switch, option_hints, read_option
from qtoolkit.notebook.panels.field import Field, choice_field, switch_field, text_field
from qtoolkit.notebook.progress_bar import close_widget


class ConfigForm:
    """Fields for a method and its options.

    Args:
        on_change: called when the config of the fields has changed, or a field has become wrong.

    Attributes:
        box: the widget to put on the page.
        method: the field that chooses the method.
        options: option -> its field.
        config: the config of the fields; None as long as one of them is wrong, which then shows the error.
    """

    def __init__(self, on_change: Callable[[], None]) -> None:
        self._on_change = on_change
        methods = [(f"{name}: {get_method(name).summary}", name) for name in available_methods()]
        self.method = choice_field("Method", methods, DEFAULT_METHOD)
        self.method.on_change(self._change_method)
        self.box = VBox()
        self.options: dict[str, Field] = {}
        self.config: MethodConfig | None = None
        self._make_options()

    def _change_method(self) -> None:
        self._make_options()
        self._on_change()

    def _make_options(self) -> None:
        config_class = get_method(self.method.value).config_class
        hints = option_hints(config_class)
        previous = self.options
        self.config = config_class()
        self.options = {
            field.name: _field_of(field.name, hints[field.name], getattr(self.config, field.name), field.metadata)
            for field in fields(config_class)
            if field.name in hints
        }
        for field in self.options.values():
            field.on_change(self._change_option)
        self.box.children = [self.method.box, *(field.box for field in self.options.values())]
        # Off the page, they would stay in the kernel.
        for field in previous.values():
            close_widget(field.box)

    def _change_option(self) -> None:
        self.config = self._read()
        self._on_change()

    def _read(self) -> MethodConfig | None:
        """Return the config of all fields, or None; each field that is wrong shows its own error."""
        config_class = get_method(self.method.value).config_class
        hints = option_hints(config_class)
        values = {name: _value(hints[name], field.value) for name, field in self.options.items()}
        # An empty field means the default.
        values = {name: value for name, value in values.items() if value != ""}
        errors: dict[str, str] = {}
        config: MethodConfig | None = None
        # A config reports one error at a time: leave that option out, and check the others without it.
        while config is None:
            try:
                config = config_class(**values)
            except ConfigError as error:
                name = _option_of_error(str(error), values)
                errors[name] = str(error)
                del values[name]
        for name, field in self.options.items():
            field.set_problem(errors.get(name, ""))
        return None if errors else config


def _field_of(name: str, hint: Any, default: Any, metadata: Mapping[str, Any]) -> Field:
    """Make the field of an option: a box to tick, a menu of choices, or text."""
    help_text = f"{metadata['help']}, in {metadata['unit']}" if metadata["unit"] else metadata["help"]
    if is_switch(hint):
        return switch_field(name, default, hint=help_text)
    if metadata["choices"]:
        return choice_field(name, [(str(choice), choice) for choice in metadata["choices"]], default, hint=help_text)
    text = ", ".join(default or ()) if is_list(hint) else "" if default is None else str(default)
    return text_field(name, text, hint=help_text, placeholder="None" if default is None else "")


def _value(hint: Any, given: Any) -> Any:
    return read_option(hint, [given] if is_list(hint) else given)


def _option_of_error(message: str, values: Mapping[str, Any]) -> str:
    """Return the option that a message is about: the first that it names, otherwise the last one."""
    matches = {name: re.search(rf"\b{name}\b", message) for name in values}
    named = {name: match.start() for name, match in matches.items() if match}
    return min(named, key=lambda name: named[name]) if named else list(values)[-1]
