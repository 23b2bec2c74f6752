"""A method and its options as fields, made from its config."""

import re
from collections.abc import Callable
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
        heard: called when the config that they describe has changed, or can no longer be made.

    Attributes:
        box: what is put on the page.
        method: the field that chooses the method.
        options: option -> its field.
        config: what the fields describe; None while one of them is wrong, which then says so.
    """

    def __init__(self, heard: Callable[[], None]) -> None:
        self._heard = heard
        methods = [(f"{name}: {get_method(name).summary}", name) for name in available_methods()]
        self.method = choice_field("Method", methods, DEFAULT_METHOD)
        self.method.on_change(self._changed_method)
        self.box = VBox()
        self.options: dict[str, Field] = {}
        self.config: MethodConfig | None = None
        self._make_options()

    def _changed_method(self) -> None:
        self._make_options()
        self._heard()

    def _make_options(self) -> None:
        config_class = get_method(self.method.value).config_class
        hints, before = option_hints(config_class), self.options
        usual, told = config_class(), {field.name: field.metadata for field in fields(config_class)}
        self.options = {name: _field_of(name, hints[name], getattr(usual, name), told[name]) for name in hints}
        for field in self.options.values():
            field.on_change(self._changed)
        self.config = usual
        self.box.children = [self.method.box, *(field.box for field in self.options.values())]
        # Off the page, they would stay in the kernel.
        for field in before.values():
            close_widget(field.box)

    def _changed(self) -> None:
        self.config = self._read()
        self._heard()

    def _read(self) -> MethodConfig | None:
        """The config of all fields; each that is wrong says so, and the others are looked at without it."""
        config_class = get_method(self.method.value).config_class
        hints = option_hints(config_class)
        values = {name: _value(hints[name], field.value) for name, field in self.options.items()}
        # An empty field is as by default.
        values = {name: value for name, value in values.items() if value != ""}
        problems: dict[str, str] = {}
        made: MethodConfig | None = None
        while made is None:
            try:
                made = config_class(**values)
            except ConfigError as error:
                name = _named(str(error), values)
                problems[name] = str(error)
                del values[name]
        for name, field in self.options.items():
            field.complain(problems.get(name, ""))
        return None if problems else made


def _field_of(name: str, hint: Any, usual: Any, told: Any) -> Field:
    """The field of an option: a box to tick, a list of choices, or text."""
    help_text = f"{told['help']}, in {told['unit']}" if told["unit"] else told["help"]
    if is_switch(hint):
        return switch_field(name, usual, hint=help_text)
    if told["choices"]:
        return choice_field(name, [(str(choice), choice) for choice in told["choices"]], usual, hint=help_text)
    text = ", ".join(usual) if is_list(hint) else "" if usual is None else str(usual)
    return text_field(name, text, hint=help_text, placeholder="None" if usual is None else "")


def _value(hint: Any, given: Any) -> Any:
    return read_option(hint, [given] if is_list(hint) else given)


def _named(problem: str, values: dict[str, Any]) -> str:
    """The option that a message is about: the first that it names, and otherwise the last one."""
    places = {name: re.search(rf"\b{name}\b", problem) for name in values}
    found = {name: match.start() for name, match in places.items() if match}
    return min(found, key=lambda name: found[name]) if found else next(reversed(values))
