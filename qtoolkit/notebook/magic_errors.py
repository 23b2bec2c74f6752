"""Let a cell fail with one line that says why, and free the memory that the error would hold."""

import functools
import gc
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, TypeVar

from qtoolkit.errors import ConfigError, QToolkitError
from qtoolkit.notebook.help import asks_for_help
from qtoolkit.tokens import forget

P = ParamSpec("P")
T = TypeVar("T")


class MagicError(QToolkitError):
    """Stand for an error of qtoolkit in a magic; IPython shows it as the one line `Name: message`.

    IPython's own `UsageError` is not used: it reaches the page as text on stderr, not as an error, so that nbval
    believes that the cell passed.

    Args:
        name: the class of the original error, which is also the `__cause__`.
        message: the message of the original error.
    """

    def __init__(self, name: str, message: str) -> None:
        super().__init__(message)
        self.name = name

    def _render_traceback_(self) -> list[str]:
        return [f"{self.name}: {self}"]


def short_errors(magic: Callable[Concatenate[Any, str, P], T]) -> Callable[Concatenate[Any, str, P], T]:
    """Make a magic fail with a `MagicError`, and keep nothing of a failed or stopped job in memory.

    IPython keeps the last exception, and with it the local variables of every function in its traceback: a half-made
    model, a request with its token. They are cleared here. With `--debug` on the line, the original error is raised,
    with its traceback. Otherwise the message names options as the line does (`in_words_of_line`).

    `--help` shows the help instead, and a `;` at the end of a line keeps the result off the page, as it does in Python.
    """

    @functools.wraps(magic)
    def wrapper(self: Any, line: str, /, *args: P.args, **kwargs: P.kwargs) -> T:
        if asks_for_help(line):
            # `_memory_of` does the work of `%qmemory`.
            print(getattr(self, {"_memory_of": "qmemory"}.get(magic.__name__, magic.__name__)).getdoc(line))
            return None  # type: ignore[return-value]
        silent = line.rstrip().endswith(";")
        if silent:
            line = line.rstrip().removesuffix(";")
        try:
            result = magic(self, line, *args, **kwargs)
        except BaseException as error:
            forget_variables(error)
            has_body = bool(args) and isinstance(args[0], str)
            # IPython can show the variables of this frame too, and these hold the whole user namespace.
            del args, kwargs
            if "--debug" not in line.split() and isinstance(error, QToolkitError) and not isinstance(error, MagicError):
                from qtoolkit.notebook.line_words import in_words_of_line

                message = in_words_of_line(
                    str(error), magic.__name__, has_body=has_body, names_options=isinstance(error, ConfigError)
                )
                raise MagicError(type(error).__name__, message) from error
            raise
        return None if silent else result  # type: ignore[return-value]

    return wrapper


def forget_variables(error: BaseException) -> None:
    """Clear the local variables of all finished frames of an error, its causes and contexts, and free their memory.

    An option is refused before there is anything to free: then nothing is searched for, which takes a second.
    """
    forget(error)
    if not isinstance(error, ConfigError):
        gc.collect()
