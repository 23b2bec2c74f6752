"""A Hub token is shown nowhere: by no variable, by no frame that an error holds, by no message."""

import traceback
from collections.abc import Iterator

from qtoolkit.errors import masked


class Token(str):
    """A Hub token whose `repr` does not tell it: tracebacks with variables, logs and debuggers show that."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "Token('hf_…')"


def concealed(token: str | None) -> Token | None:
    """A token that shows itself to nobody but who sends it; None for none."""
    return None if token is None else Token(token)


def forget(error: BaseException, outer: BaseException | None = None, token: str | None = None) -> None:
    """Clear what an error, its causes and contexts hold: variables of finished frames, requests, tokens in messages.

    Args:
        error: the error.
        outer: one that was handled already when the work began, which is somebody else's.
        token: what is masked beside all that looks like a Hub token.
    """
    for link in _chain(error, outer):
        traceback.clear_frames(link.__traceback__)
        _let_go(link, token)
        _mask(link, token)
    for link in _chain(error, outer):
        # What makes its text of something else is left out.
        if link.__cause__ is not None and link.__cause__ is not outer and _shows(link.__cause__, token):
            link.__cause__ = None
        if link.__context__ is not None and link.__context__ is not outer and _shows(link.__context__, token):
            link.__context__ = None


def _chain(error: BaseException, outer: BaseException | None) -> Iterator[BaseException]:
    """An error, its causes and contexts, and those in a group, each once."""
    pending, seen = [error], {id(outer)}
    while pending:
        error = pending.pop()
        if id(error) in seen:
            continue
        seen.add(id(error))
        yield error
        inner = error.exceptions if isinstance(error, BaseExceptionGroup) else ()
        pending += [other for other in (error.__cause__, error.__context__, *inner) if other is not None]


def _let_go(error: BaseException, token: str | None) -> None:
    """Take requests and answers from an error of an HTTP library: their headers and addresses hold the token."""
    held = vars(error)
    for name, value in held.items():
        if isinstance(value, str):
            held[name] = masked(value, token)
        elif name == "headers" or hasattr(value, "headers"):
            held[name] = None


def _mask(error: BaseException, token: str | None) -> None:
    """Mask what an error says; most say their arguments."""
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
    """Whether a token is seen where an error is."""
    told = "\n".join(map(str, (error, repr(error), *getattr(error, "__notes__", ()))))
    return masked(told, token) != told
