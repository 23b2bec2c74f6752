"""Errors in a notebook: the cell fails, and says in one line why."""

import functools
import gc
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, TypeVar

from qtoolkit.errors import QToolkitError
from qtoolkit.tokens import forget

P = ParamSpec("P")
T = TypeVar("T")


class MagicError(QToolkitError):
    """What a magic raises for every error that qtoolkit raises on purpose: shown as the one line `Name: message`.

    IPython's own `UsageError` is not used: it reaches the page as text on stderr, not as an error, so that nbval takes
    the cell for a good one.

    Args:
        name: the class of the original error, which is also the `__cause__`.
        message: what the original error said.
    """

    def __init__(self, name: str, message: str) -> None:
        super().__init__(message)
        self.name = name

    def _render_traceback_(self) -> list[str]:
        return [f"{self.name}: {self}"]


def short_errors(magic: Callable[Concatenate[Any, str, P], T]) -> Callable[Concatenate[Any, str, P], T]:
    """Let a magic fail with a `MagicError`, and keep nothing of a failed or stopped job in memory.

    IPython remembers the last exception, and with it the local variables of every function on the way: a model half
    done, a request with its token. They are forgotten here. With `--debug` on the line, the original error passes, with
    its traceback.
    """

    @functools.wraps(magic)
    def wrapper(self: Any, line: str, /, *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return magic(self, line, *args, **kwargs)
        except BaseException as error:
            forget_variables(error)
            # This frame is shown too, and they are all of a person's variables.
            del args, kwargs
            if "--debug" not in line.split() and isinstance(error, QToolkitError) and not isinstance(error, MagicError):
                raise MagicError(type(error).__name__, str(error)) from error
            raise

    return wrapper


def forget_variables(error: BaseException) -> None:
    """Clear the local variables of all finished frames that the error, its causes and contexts hold."""
    forget(error)
    gc.collect()
