"""Make fields for a method and its options from the method's config class; those that few change are folded."""

import re
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

from ipywidgets import Text, VBox

from qtoolkit.errors import ConfigError
from qtoolkit.methods import MethodConfig, available_methods, get_method
from qtoolkit.notebook.body import DEFAULT_METHOD
from qtoolkit.notebook.offered_words import TEXT_FILES
from qtoolkit.notebook.options import is_list, is_switch, option_hints, read_option
from qtoolkit.notebook.panels.field import Field, choice_field, switch_field, text_field
from qtoolkit.notebook.panels.fold import Fold
from qtoolkit.notebook.panels.option_labels import label_of
from qtoolkit.notebook.panels.panel_words import in_words_of_panel
from qtoolkit.notebook.panels.path_field import path_field
from qtoolkit.notebook.progress_bar import close_widget
from qtoolkit.units import format_items

# Options that most people need not know are folded: these always, and of a method of many options all but `_FIRST`.
_RARE = ("exclude", "include")
_FIRST = ("format", "bits", "group_size", "quant_type", "calibration", "num_samples", "seq_len")
_FEW = 8


class ConfigForm:
    """Fields for a method and its options.

    Args:
        on_change: called when the config of the fields has changed, or a field has become wrong.

    Attributes:
        box: the widget to put on the page.
        method: the field that chooses the method.
        options: option -> its field.
        advanced: folds the options that few change.
        config: the config of the fields; None as long as one of them is wrong, which then shows the error.
    """

    def __init__(self, on_change: Callable[[], None]) -> None:
        self._on_change = on_change
        # A menu cuts off what is long: the rest stands beside it.
        methods = [
            (f"{name}: {re.split('[;(]', get_method(name).summary)[0].strip()}", name) for name in available_methods()
        ]
        self.method = choice_field("Method", methods, DEFAULT_METHOD)
        self.method.on_change(self._change_method)
        self.box = VBox()
        self.options: dict[str, Field] = {}
        self.advanced = Fold("", [])
        self.config: MethodConfig | None = None
        self._make_options()

    def _change_method(self) -> None:
        self._make_options()
        self._on_change()

    def _make_options(self) -> None:
        self.method.set_hint(get_method(self.method.value).summary)
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
        rare = [field.box for name, field in self.options.items() if self._is_rare(name)]
        first = [field.box for name, field in self.options.items() if not self._is_rare(name)]
        fold, self.advanced = self.advanced, Fold(f"Advanced: {format_items(len(rare), 'more option')}", rare)
        self.box.children = [self.method.box, *first, self.advanced.box]
        # Off the page, they would stay in the kernel.
        for field in previous.values():
            close_widget(field.box)
        close_widget(fold.box)

    @property
    def wrong(self) -> str:
        """Return the label of the first option that is wrong; empty if none is."""
        return next((str(field.control.description) for field in self.options.values() if field.problem), "")

    def _is_rare(self, name: str) -> bool:
        return name in _RARE or (len(self.options) > _FEW and name not in _FIRST)

    def apply(self, config: MethodConfig) -> None:
        """Set the fields to a config; those whose values are the same stay as they are."""
        self.method.value = config.method
        hints = option_hints(type(config))
        for name, field in self.options.items():
            value = getattr(config, name)
            if self.config is None or getattr(self.config, name) != value:
                field.value = value if is_switch(hints[name]) or _choices(config, name) else _as_text(value)

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
            problem = in_words_of_panel(errors.get(name, ""), self.options, names_options=True)
            usual = getattr(config_class(), name)
            is_number = type(usual) in (int, float) and isinstance(field.control, Text)
            field.set_problem(f"{problem}; usual is {usual}" if problem and is_number else problem)
        if any(self._is_rare(name) for name in errors):
            self.advanced.turn(open_=True)
        return None if errors else config


def _field_of(name: str, hint: Any, default: Any, metadata: Mapping[str, Any]) -> Field:
    """Make the field of an option: a box to tick, a menu of choices, or text."""
    told, unit = metadata["help"], metadata["unit"]
    # "samples of the text" are counted in samples.
    counted = f", in {unit}" if unit and unit not in told else ""
    label, help_text = label_of(name), f"{told}{counted} [{name}]"
    if is_switch(hint):
        return switch_field(label, default, hint=help_text)
    if metadata["choices"]:
        return choice_field(label, [(str(choice), choice) for choice in metadata["choices"]], default, hint=help_text)
    if name == "calibration":
        return path_field(label, _as_text(default), hint=help_text, suffixes=TEXT_FILES)
    return text_field(label, _as_text(default), hint=help_text, placeholder="None" if default is None else "")


def _as_text(value: Any) -> str:
    """Write the value of an option as it stands in its field."""
    return ", ".join(map(str, value)) if isinstance(value, tuple) else "" if value is None else str(value)


def _choices(config: MethodConfig, name: str) -> Any:
    return next(field.metadata["choices"] for field in fields(config) if field.name == name)


def _value(hint: Any, given: Any) -> Any:
    return read_option(hint, [given] if is_list(hint) else given)


def _option_of_error(message: str, values: Mapping[str, Any]) -> str:
    """Return the option that a message is about: the first that it names, otherwise the last one."""
    matches = {name: re.search(rf"\b{name}\b", message) for name in values}
    named = {name: match.start() for name, match in matches.items() if match}
    return min(named, key=lambda name: named[name]) if named else list(values)[-1]
