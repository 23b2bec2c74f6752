"""Hold the call of a verb that a panel will make: write it as Python, and make it."""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape
from typing import Any, Protocol

from qtoolkit.errors import masked
from qtoolkit.methods import MethodConfig, as_call, find_config


class PanelCall(Protocol):
    """What a button of a panel does, written as Python by `str`."""

    @property
    def verb(self) -> str:
        """Return the name that its result is kept under."""

    def run(self, **hidden: Any) -> Any:
        """Do it; `hidden` are keyword arguments that do not change the result: `on_progress`."""


@dataclass(frozen=True)
class Variable:
    """The value of a variable of the notebook, written as the variable's name."""

    name: str
    value: Any


@dataclass(frozen=True)
class VerbCall:
    """A call of one verb of `qtoolkit`.

    Attributes:
        verb: "quantize".
        arguments: the positional arguments.
        options: the keyword arguments, those with default values left out.
        into: the variable that the result is assigned to; empty for none.

    Example:
        >>> print(VerbCall("plan", ("org/model", "nf4"), {"device": "cpu"}, into="p"))
        p = qt.plan('org/model', 'nf4', device='cpu')
    """

    verb: str
    arguments: tuple[Any, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    into: str = ""

    def __str__(self) -> str:
        options = (f"{name}={_as_python(value)}" for name, value in self.options.items())
        # A token may have been pasted into a field for a name, and the page is saved.
        call = masked(f"qt.{self.verb}({', '.join([*map(_as_python, self.arguments), *options])})")
        return f"{self.into} = {call}" if self.into else call

    def run(self, **hidden: Any) -> Any:
        """Call the verb, and return its result.

        Args:
            hidden: further keyword arguments, which do not change the result and are not shown: `on_progress`.
        """
        verb = getattr(importlib.import_module("qtoolkit.api"), self.verb)
        options = {name: value.value if isinstance(value, Variable) else value for name, value in self.options.items()}
        return verb(*self.arguments, **options, **hidden)


def call_html(call: PanelCall | None, instead: str = "") -> str:
    """Write a call as Python that can be copied, or a sentence that says why there is none yet."""
    shown = f'<code title="One click selects all of it">{escape(str(call))}</code>' if call else escape(instead)
    return f'<div class="qtk-text">{shown}</div>'


def _as_python(value: Any) -> str:
    """Write a value as a Python expression that makes it."""
    if isinstance(value, Variable):
        return value.name
    if isinstance(value, MethodConfig):
        # Only qtoolkit's own configs are names of `qt`.
        return f"qt.{as_call(value)}" if find_config(type(value).__name__) else as_call(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_as_python, value))}]"
    return repr(value)
