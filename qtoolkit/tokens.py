"""Keep Hub tokens out of everything that is shown: variables, frames of a traceback, and messages."""

import contextlib
import traceback
from collections.abc import Iterator

from qtoolkit.errors import masked


class Token(str):
    """A Hub token whose `repr` hides it, since tracebacks with variables, logs and debuggers show the `repr`."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "Token('hf_…')"


def concealed(token: str | None) -> Token | None:
    """Return a token as a `Token`, which only the code that sends it can read; None for None."""
    return None if token is None else Token(token)


def forget(error: BaseException, outer: BaseException | None = None, token: str | None = None) -> None:
    """Clear the frames of an error, its causes and contexts; remove requests from them and tokens from messages.

    Args:
        error: the error.
        outer: an error that was being handled when the work began; it belongs to somebody else and is not changed.
        token: a token to mask in addition to all text that looks like a Hub token.
    """
    for link in _chain(error, outer):
        traceback.clear_frames(link.__traceback__)
        _let_go(link, token)
        _mask(link, token)
    for link in _chain(error, outer):
        # An error that still shows a token, because it builds its text from something else, is unlinked.
        if link.__cause__ is not None and link.__cause__ is not outer and _shows(link.__cause__, token):
            link.__cause__ = None
        if link.__context__ is not None and link.__context__ is not outer and _shows(link.__context__, token):
            link.__context__ = None


def _chain(error: BaseException, outer: BaseException | None) -> Iterator[BaseException]:
    """Yield an error, its causes and contexts, and the errors of a group, each once."""
    pending = [error]
    seen = {id(outer)}
    while pending:
        error = pending.pop()
        if id(error) in seen:
            continue
        seen.add(id(error))
        yield error
        inner = error.exceptions if isinstance(error, BaseExceptionGroup) else ()
        pending += [other for other in (error.__cause__, error.__context__, *inner) if other is not None]


def _let_go(error: BaseException, token: str | None) -> None:
    """Remove requests and responses from an error of an HTTP library: their headers and URLs hold the token."""
    attributes = vars(error)
    for name, value in attributes.items():
        if isinstance(value, str):
            attributes[name] = masked(value, token)
        elif name == "headers" or hasattr(value, "headers"):
            if hasattr(value, "status_code"):
                # A response holds its connection. What cannot be closed is let go all the same.
                with contextlib.suppress(Exception):
                    value.close()
            attributes[name] = None


def _mask(error: BaseException, token: str | None) -> None:
    """Mask tokens in the arguments, file names and notes of an error, from which its text is built."""
    if not _shows(error, token):
        return
    error.args = tuple(masked(each, token) if isinstance(each, str) else each for each in error.args)
    if isinstance(error, OSError):
        for name in ("filename", "filename2"):
            if isinstance(getattr(error, name), str):
                setattr(error, name, masked(getattr(error, name), token))
    if notes := getattr(error, "__notes__", None):
        error.__notes__ = [masked(str(note), token) for note in notes]


def _shows(error: BaseException, token: str | None) -> bool:
    """Return whether the text of an error contains a token."""
    shown = "\n".join(map(str, (error, repr(error), *getattr(error, "__notes__", ()))))
    return masked(shown, token) != shown
