"""Build a control of a panel, with text beside it that says what it is for, or what is wrong with its value."""

import re
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any, NoReturn, TypeAlias

from ipywidgets import HTML, Box, Button, Checkbox, Dropdown, Layout, Text

from qtoolkit.errors import ConfigError, QToolkitError, oneline

# Labels of one width, so that controls stand below one another; all of it wraps in a narrow cell.
_STYLE = {"description_width": "9em"}
# As wide as a narrow cell, less the margin.
_WIDE = {"width": "36em", "max_width": "calc(100% - 4px)"}
_ROW = {"flex_flow": "row wrap", "align_items": "center", "max_width": "100%"}
# Beside its control if there is space for some words, otherwise below it.
_BESIDE = {"flex": "1 1 14em", "min_width": "0", "margin": "2px 8px"}

# Said where an error would be told a second time.
MARKED = "not started: what is marked above is wrong"


class ShownError(ConfigError):
    """An error that is shown beside its field already, and need not be told again."""


class Field:
    """A control with a label, a hint, and an error message above the hint.

    Args:
        control: the ipywidgets control, which has its label as `description`.
        hint: what its value is for.

    Attributes:
        box: the widget to put on the page.
        problem: what is wrong with its value; empty if nothing is.
        keyword: the verb's keyword that it is for; empty for none.
        default: the verb's default of this keyword.
        ticked: what the verb takes where a box is ticked.
    """

    keyword = ""
    default: Any = None
    ticked = True

    def __init__(self, control: Any, hint: str = "") -> None:
        self.control = control
        self._hint = hint
        self._beside = HTML(layout=Layout(**_BESIDE))
        self.box = Box([control, self._beside], layout=Layout(**_ROW))
        self.set_problem("")
        # An error says nothing of the next value. Registered first, so that it is cleared before the value is read.
        control.observe(lambda _: self.set_problem(""), names="value")

    @property
    def value(self) -> Any:
        """Return its value; a text without the blanks around it."""
        value = self.control.value
        return value.strip() if isinstance(value, str) else value

    @value.setter
    def value(self, value: Any) -> None:
        # In one message to the page, with what the control changes for it, such as a list of folders.
        with self.control.hold_sync():
            self.control.value = value

    def set_hint(self, hint: str) -> None:
        """Show another hint."""
        self._hint = hint
        self.set_problem(self.problem)

    def set_problem(self, message: str) -> None:
        """Show beside the control what is wrong, and a red border around it; an empty message takes both away."""
        self.problem = message
        # Whoever has typed something wrong needs the hint most.
        hint = f'<div class="qtk-text">{escape(self._hint)}</div>' if self._hint else ""
        if message:
            hint = f'<div role="alert" class="qtk-text qtk-problem">⚠ {escape(message)}</div>{hint}'
            self.control.add_class("qtk-wrong")
        else:
            self.control.remove_class("qtk-wrong")
        self._beside.value = hint

    def count(self) -> int:
        """Return its text as a whole number of at least 1.

        Raises:
            ConfigError: the text is no such number; the message is shown beside the control too.
        """
        if not re.fullmatch("0*[1-9][0-9]{0,14}", self.value):
            self.refuse(f"{self.control.description} must be a whole number of at least 1, got {self.value!r:.40}")
        self.set_problem("")
        return int(self.value)

    def checked(self, check: Callable[[str], Any]) -> str:
        """Return its text if `check` accepts it.

        Raises:
            ConfigError: raised by `check`; the message is shown beside the control too.
        """
        try:
            check(self.value)
        except ConfigError as error:
            raise self._shown(str(error)) from error
        self.set_problem("")
        return str(self.value)

    def needed(self, what: str) -> str:
        """Return its text, which may not be empty.

        Raises:
            ConfigError: it is empty; the message, which asks for `what`, is shown beside the control too.
        """
        if not self.value:
            self.refuse(f"{self.control.description} is empty: give {what}")
        self.set_problem("")
        return str(self.value)

    def refuse(self, message: str) -> NoReturn:
        """Show what is wrong, and raise it, so that no job starts.

        Raises:
            ShownError: always.
        """
        raise self._shown(message)

    def _shown(self, message: str) -> ShownError:
        self.set_problem(message)
        return ShownError(message)

    def on_change(self, callback: Callable[[], None]) -> None:
        """Call `callback` whenever the value has changed; an error that it raises is shown beside the control."""
        self.control.observe(lambda _: self._guarded(callback), names="value")

    def _guarded(self, callback: Callable[[], None]) -> None:
        # ipywidgets writes errors of callbacks into a log that nobody opens.
        try:
            callback()
        except Exception as error:  # noqa: BLE001
            self._tell(error)

    def _tell(self, error: Exception) -> None:
        if not isinstance(error, ShownError):
            self.set_problem(error_line(error))


class ButtonField(Field):
    """A button, with the error of its last press beside it; it can be pressed again.

    Args:
        label: its text.
        callback: called when it is pressed; returns at once.
        main: whether it is drawn as the panel's most important button.
    """

    def __init__(self, label: str, callback: Callable[[], None], *, main: bool = False) -> None:
        super().__init__(Button(description=label, button_style="primary" if main else "", layout=Layout(width="auto")))
        self._callback = callback
        self.control.on_click(lambda _: self.press())

    def press(self) -> None:
        """Run the button's callback, and show its error, unless a field shows it."""
        self.set_problem("")
        self._guarded(self._callback)

    def _tell(self, error: Exception) -> None:
        self.set_problem(MARKED if isinstance(error, ShownError) else error_line(error))


# The name of an argument, or the class of an error -> the field that such an error is shown beside.
ErrorFields: TypeAlias = Mapping[str | type[BaseException], Field]


def field_of_error(error: BaseException, fields: ErrorFields) -> Field | None:
    """Return the field that an error is about, or None.

    An argument's name counts if the message begins with it or has it as `name=`; classes count after all names.
    """
    for key, field in sorted(fields.items(), key=lambda item: not isinstance(item[0], str)):
        if isinstance(key, str):
            if isinstance(error, QToolkitError) and re.search(rf"^{key}\b|\b{key}=", str(error)):
                return field
        elif isinstance(error, key):
            return field
    return None


def error_line(error: BaseException) -> str:
    """Write an error as one line; with its class unless it is qtoolkit's, whose messages say what to do."""
    return str(error) if isinstance(error, QToolkitError) else f"{type(error).__name__}: {oneline(error)}"


def text_field(label: str, value: str = "", *, hint: str = "", placeholder: str = "") -> Field:
    """Make a field for one line of text."""
    return wide_field(Text, label, hint, value=value, placeholder=placeholder)


def switch_field(label: str, value: bool, *, hint: str = "") -> Field:
    """Make a box to tick."""
    # Indented by the width of a label, it stands below the other controls.
    return Field(Checkbox(value, description=label, style=_STYLE, layout=Layout(width="auto", max_width="100%")), hint)


def choice_field(label: str, options: Sequence[tuple[str, Any]], value: Any, *, hint: str = "") -> Field:
    """Make a menu of a few values, each with its label."""
    return wide_field(Dropdown, label, hint, options=list(options), value=value)


def wide_field(control: Callable[..., Any], label: str, hint: str = "", **traits: Any) -> Field:
    """Make a field of a widget's class, with the style of all fields.

    Args:
        control: the class of the widget, such as `Select`.
        label: stands before it.
        hint: stands behind it.
        traits: what else the widget is made with.
    """
    return Field(control(description=label, style=_STYLE, layout=Layout(**_WIDE), **traits), hint)
