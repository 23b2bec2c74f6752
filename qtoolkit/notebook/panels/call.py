"""The call that a panel will make: shown as Python, and made."""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from qtoolkit.errors import masked
from qtoolkit.methods import MethodConfig, as_call, find_config


@dataclass(frozen=True)
class Variable:
    """A value that a variable of the notebook holds, written by its name."""

    name: str
    value: Any


@dataclass(frozen=True)
class Call:
    """A call of one verb of `qtoolkit`.

    Attributes:
        verb: "quantize".
        arguments: what stands first.
        options: keyword arguments, those that are not as by default.
        into: the variable that takes the result; empty for none.

    Example:
        >>> print(Call("plan", ("org/model", "nf4"), {"device": "cpu"}, into="p"))
        p = qt.plan('org/model', 'nf4', device='cpu')
    """

    verb: str
    arguments: tuple[Any, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    into: str = ""

    def __str__(self) -> str:
        words = [*map(_written, self.arguments), *(f"{name}={_written(value)}" for name, value in self.options.items())]
        # A token may have been pasted where a name belongs, and the page stays.
        call = masked(f"qt.{self.verb}({', '.join(words)})")
        return f"{self.into} = {call}" if self.into else call

    def make(self, **unseen: Any) -> Any:
        """Call the verb.

        Args:
            unseen: further arguments, which do not change what is made: `on_progress`.
        """
        verb = getattr(importlib.import_module("qtoolkit.api"), self.verb)
        options = {name: value.value if isinstance(value, Variable) else value for name, value in self.options.items()}
        return verb(*self.arguments, **options, **unseen)


def _written(value: Any) -> str:
    """A value as Python that makes it."""
    if isinstance(value, Variable):
        return value.name
    if isinstance(value, MethodConfig):
        # Another package's config is no name of qtoolkit.
        return f"qt.{as_call(value)}" if find_config(type(value).__name__) else as_call(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_written, value))}]"
    return repr(value)
