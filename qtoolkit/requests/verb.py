"""Make verbs from their requests: the signature, the docstring's `Args:`, and errors that hold no token."""

import functools
import inspect
import re
import sys
import textwrap
from collections.abc import Callable
from dataclasses import MISSING, Field, fields
from inspect import Parameter, Signature
from typing import Any, ParamSpec, TypeVar, cast

from qtoolkit.errors import did_you_mean
from qtoolkit.requests.option_field import Request
from qtoolkit.tokens import concealed, forget

P = ParamSpec("P")
Q = TypeVar("Q", bound=Request)
R = TypeVar("R")

_WIDTH = 116


def verb(request: Callable[P, Q]) -> Callable[[Callable[[Q], R]], Callable[P, R]]:
    """Make a verb of a function that takes a request: it is called with the request's fields as arguments.

    Its signature has the fields in the order of `arguments_of`, and its docstring the help of each under `Args:`.

    Errors that leave the verb hold neither a half-made model nor a token, in frames and in messages: a notebook keeps
    the last error, and with `%xmode Verbose` shows the variables of every frame of its traceback; those of
    huggingface_hub hold the headers of a request.

    Args:
        request: the class of the request.
    """
    request_class = cast("type[Request]", request)

    def decorate(function: Callable[[Q], R]) -> Callable[P, R]:
        signature = _signature(request_class, inspect.signature(function).return_annotation)

        @functools.wraps(function)
        def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
            outer = sys.exception()
            options: dict[str, Any] = kwargs
            token = concealed(options["token"]) if isinstance(options.get("token"), str) else None
            if token is not None:
                options["token"] = token
            try:
                _check_call(function.__name__, signature, args, options)
                return function(request(*args, **kwargs))
            except BaseException as error:
                forget(error, outer, token)
                # The variables of this frame are shown too.
                del args
                options.clear()
                raise

        wrapper.__signature__ = signature  # type: ignore[attr-defined]
        wrapper.__annotations__ = {one.name: one.type for one in arguments_of(request_class)}
        wrapper.__annotations__["return"] = signature.return_annotation
        wrapper.__doc__ = _docstring(inspect.getdoc(function) or "", request_class)
        return wrapper

    return decorate


def arguments_of(request: type[Request]) -> tuple[Field[Any], ...]:
    """Return the fields of a request class in the order of its verb's signature: its own, then those of its bases.

    Example: of `class Request(OnDevice, WithProgress)` with a field `model` these are model, device and on_progress.
    """
    known = {one.name: one for one in fields(request)}
    names = [name for base in request.__mro__ for name in inspect.get_annotations(base)]
    return tuple(known[name] for name in dict.fromkeys(names) if name in known)


def _signature(request: type[Request], returned: Any) -> Signature:
    parameters = [
        Parameter(
            one.name,
            Parameter.KEYWORD_ONLY if one.kw_only else Parameter.POSITIONAL_OR_KEYWORD,
            default=Parameter.empty if one.default is MISSING else one.default,
            annotation=one.type,
        )
        for one in arguments_of(request)
    ]
    return Signature(sorted(parameters, key=lambda one: one.kind), return_annotation=returned)


def _check_call(name: str, signature: Signature, args: tuple[Any, ...], options: dict[str, Any]) -> None:
    """Refuse arguments that the verb does not take, by its name and not by that of its request."""
    try:
        signature.bind(*args, **options)
    except TypeError as error:
        most = sum(one.kind is Parameter.POSITIONAL_OR_KEYWORD for one in signature.parameters.values())
        counted = f"takes {most} positional arguments but {len(args)} were given: write the others as NAME=VALUE"
        unknown = next((one for one in options if one not in signature.parameters), "")
        near = did_you_mean(unknown, signature.parameters).strip() if unknown else ""
        raise TypeError(f"{name}() {counted if len(args) > most else error}{near and f': {near}'}") from None


def _docstring(text: str, request: type[Request]) -> str:
    """Return a docstring with the help of each argument before its sections."""
    before, *sections = re.split(r"\n(?=(?:Returns|Raises):\n)", text, maxsplit=1)
    return "\n".join([before.rstrip(), "", "Args:", *map(_entry, arguments_of(request)), "", *sections])


def _entry(one: Field[Any]) -> str:
    """Return the lines that describe an argument in a docstring."""
    described = one.metadata
    parts = [f"{one.name}: {described['help']}"]
    if described.get("choices"):
        parts.append(f"one of {', '.join(map(repr, described['choices']))}")
    if described.get("empty"):
        parts.append(f"{'False to' if one.default is True else 'None for'} {described['empty']}")
    text = "; ".join(parts)
    text = text if text.endswith("...") else f"{text}."
    return textwrap.fill(text, _WIDTH, initial_indent=" " * 4, subsequent_indent=" " * 8, break_on_hyphens=False)
