"""A control of a panel, and beside it what it is for, or what is wrong with its value."""

import re
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any, TypeAlias

from ipywidgets import HTML, Box, Button, Checkbox, Dropdown, Layout, Select, SelectMultiple, Text, Textarea

from qtoolkit.errors import ConfigError, QToolkitError, oneline

# Labels of one width, so that controls stand below one another; all of it wraps in a narrow cell.
_STYLE = {"description_width": "9em"}
# As wide as a narrow cell, less the margin.
_WIDE = {"width": "30em", "max_width": "calc(100% - 4px)"}
_ROW = {"flex_flow": "row wrap", "align_items": "center", "max_width": "100%"}
# Beside its control where there is room for some words, and below it in a narrow cell.
_BESIDE = {"flex": "1 1 14em", "min_width": "0", "margin": "2px 8px"}


class Field:
    """A control with a label.

    Args:
        control: the ipywidgets control, which has its label as `description`.
        hint: what its value is for, shown while nothing is wrong.

    Attributes:
        box: what is put on the page.
    """

    def __init__(self, control: Any, hint: str = "") -> None:
        self.control, self._hint = control, hint
        self._beside = HTML(layout=Layout(**_BESIDE))
        self.box = Box([control, self._beside], layout=Layout(**_ROW))
        self.complain("")
        # What was wrong with a value says nothing of the next one. Heard first, before what looks at the next one.
        control.observe(lambda _: self.complain(""), names="value")

    @property
    def value(self) -> Any:
        """What is in it; of a text, what is not blank around it."""
        found = self.control.value
        return found.strip() if isinstance(found, str) else found

    @value.setter
    def value(self, value: Any) -> None:
        self.control.value = value

    @property
    def problem(self) -> str:
        """What is wrong with its value; empty when nothing is."""
        return self._problem

    def complain(self, problem: str) -> None:
        """Say beside the control what is wrong; an empty text takes that back."""
        self._problem = problem
        if problem:
            self._beside.value = f'<div role="alert" class="qtk-text qtk-problem">⚠ {escape(problem)}</div>'
        else:
            self._beside.value = f'<div class="qtk-text">{escape(self._hint)}</div>' if self._hint else ""

    def count(self) -> int:
        """Its text as a whole number of at least 1.

        Raises:
            ConfigError: it is none; said beside the control too.
        """
        if not re.fullmatch("0*[1-9][0-9]{0,14}", self.value):
            self.refuse(f"{self.control.description} must be a whole number of at least 1, got {self.value!r:.40}")
        self.complain("")
        return int(self.value)

    def checked(self, check: Callable[[str], Any]) -> str:
        """Its text, unless `check` refuses it.

        Raises:
            ConfigError: it does; said beside the control too.
        """
        try:
            check(self.value)
        except ConfigError as error:
            self.refuse(str(error))
        self.complain("")
        return str(self.value)

    def needed(self, what: str) -> str:
        """Its text, which may not be empty.

        Raises:
            ConfigError: it is; said beside the control too.
        """
        if not self.value:
            self.refuse(f"{self.control.description} is empty: give {what}")
        self.complain("")
        return str(self.value)

    def refuse(self, problem: str) -> None:
        """Say what is wrong, and stop what was about to be done.

        Raises:
            ConfigError: always.
        """
        self.complain(problem)
        raise ConfigError(problem)

    def on_change(self, heard: Callable[[], None]) -> None:
        """Call `heard` when the value has changed; what it raises is said beside the control."""
        self.control.observe(lambda _: self._guarded(heard), names="value")

    def _guarded(self, heard: Callable[[], None]) -> None:
        # ipywidgets puts what a callback raises into a log that nobody opens.
        try:
            heard()
        except Exception as error:  # noqa: BLE001
            self.complain(told(error))


class Action(Field):
    """A button; what is wrong is said beside it, and it can be pressed again.

    Args:
        label: what stands on it.
        do: called when it is pressed; returns at once.
    """

    def __init__(self, label: str, do: Callable[[], None], *, main: bool = False) -> None:
        super().__init__(Button(description=label, button_style="primary" if main else "", layout=Layout(width="auto")))
        self._do = do
        self.control.on_click(lambda _: self.press())

    def press(self) -> None:
        """Do what the button does."""
        self.complain("")
        self._guarded(self._do)


# Fields by what an error is about: the argument that its message names, or its class.
Places: TypeAlias = Mapping[str | type[BaseException], Field]


def place_of(error: BaseException, places: Places) -> Field | None:
    """The field that an error is about, if any is.

    An argument counts where a message begins with it, or writes it as `name=`; classes after all arguments.
    """
    for place, field in sorted(places.items(), key=lambda item: not isinstance(item[0], str)):
        if isinstance(place, str):
            if isinstance(error, QToolkitError) and re.search(rf"^{place}\b|\b{place}=", str(error)):
                return field
        elif isinstance(error, place):
            return field
    return None


def told(error: BaseException) -> str:
    """An error as one line; its class where it is none of ours, which say what to do."""
    return str(error) if isinstance(error, QToolkitError) else f"{type(error).__name__}: {oneline(error)}"


def text_field(label: str, value: str = "", *, hint: str = "", placeholder: str = "") -> Field:
    """A line of text."""
    return Field(Text(value, description=label, placeholder=placeholder, style=_STYLE, layout=Layout(**_WIDE)), hint)


def lines_field(label: str, *, hint: str = "") -> Field:
    """Several lines of text."""
    return Field(Textarea(description=label, rows=3, style=_STYLE, layout=Layout(**_WIDE)), hint)


def switch_field(label: str, value: bool, *, hint: str = "") -> Field:
    """Yes or no."""
    # Indented by the width of a label, it stands below the other controls.
    return Field(Checkbox(value, description=label, style=_STYLE, layout=Layout(width="auto", max_width="100%")), hint)


def choice_field(label: str, options: Sequence[tuple[str, Any]], value: Any, *, hint: str = "") -> Field:
    """One of a few values, each with its label."""
    control = Dropdown(options=list(options), value=value, description=label, style=_STYLE, layout=Layout(**_WIDE))
    return Field(control, hint)


def list_field(label: str, options: Sequence[tuple[str, Any]], *, hint: str = "") -> Field:
    """One of many values, in a list that scrolls."""
    return Field(Select(options=list(options), rows=8, description=label, style=_STYLE, layout=Layout(**_WIDE)), hint)


def several_field(label: str, options: Sequence[tuple[str, Any]], values: Sequence[Any], *, hint: str = "") -> Field:
    """Any of a few values."""
    layout = Layout(**_WIDE)
    control = SelectMultiple(
        options=list(options), value=tuple(values), rows=len(options), description=label, style=_STYLE, layout=layout
    )
    return Field(control, hint)
