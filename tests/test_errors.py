"""The exceptions: their tree is the one that the docstring draws, and messages of others fit into ours."""

import inspect
import re

import pytest

from qtoolkit import errors
from qtoolkit.errors import ConfigError, QToolkitError, oneline

pytestmark = pytest.mark.once

CLASSES = {name: thing for name, thing in vars(errors).items() if inspect.isclass(thing)}
LINE = re.compile(r"^(?P<branch>[ │├└─]*)(?P<name>[A-Z]\w+)(?: \((?P<builtin>\w+)\))?(?:  +\S.*)?$")


def drawn() -> dict[str, tuple[str | None, str | None]]:
    """Each class of the drawing with its parent in it, and the builtin that stands beside it."""
    assert errors.__doc__ is not None
    tree, path = {}, []
    for line in errors.__doc__.splitlines():
        match = LINE.match(line.removeprefix("    "))
        if line.startswith("    ") and match:
            depth = len(match["branch"]) // 4
            path = [*path[:depth], match["name"]]
            tree[match["name"]] = (path[-2] if depth else None, match["builtin"])
    return tree


def test_the_tree_is_the_one_that_is_drawn() -> None:
    real = {}
    for name, kind in CLASSES.items():
        own = [base.__name__ for base in kind.__bases__ if base.__name__ in CLASSES]
        builtin = [base.__name__ for base in kind.__bases__ if base.__name__ not in CLASSES and base is not Exception]
        assert len(own) <= 1
        assert len(builtin) <= 1
        real[name] = (own[0] if own else None, builtin[0] if builtin else None)
    assert drawn() == real


@pytest.mark.parametrize("kind", CLASSES.values(), ids=CLASSES)
def test_each_error_carries_its_message(kind: type[QToolkitError]) -> None:
    assert issubclass(kind, QToolkitError)
    assert kind.__doc__
    error = kind("what, and the next step")
    assert str(error) == "what, and the next step"
    assert error.args == ("what, and the next step",)


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("one line"), "one line"),
        (ValueError("one line.\nmore"), "one line"),
        (ValueError("\n\n  one line: \n"), "one line"),
        (
            ValueError("a field is wrong:\n    TypeError: expected int\nand more"),
            "a field is wrong: TypeError: expected int",
        ),
        (ValueError("a\r\nb"), "a"),
        (ValueError("a\u2028b"), "a"),
        (ValueError(), "ValueError"),
        (ValueError("  \n "), "ValueError"),
        (KeyError("name"), "'name'"),
        (FileNotFoundError(2, "No such file or directory", "/x"), "[Errno 2] No such file or directory: '/x'"),
    ],
)
def test_a_message_of_another_library_becomes_one_line(error: Exception, text: str) -> None:
    assert oneline(error) == text


def test_a_message_that_quotes_a_very_long_value_keeps_its_beginning_and_its_end() -> None:
    message = str(ConfigError(f"bits must be one of 8, 4, got {'x' * 100_000!r}: give one of these"))
    assert len(message) <= 6_000
    assert message.startswith("bits must be one of 8, 4, got 'xxx") and message.endswith("xxx': give one of these")


def test_a_message_that_quotes_a_path_is_one_line_without_codes_for_a_terminal_and_can_be_printed() -> None:
    message = str(ConfigError("/a\nb\x1b[2J\u202egpj\udcff caf\u00e9 \u4f60 exists: name another"))
    assert message == "/a\\nb\\x1b[2J\\u202egpj\\udcff caf\u00e9 \u4f60 exists: name another"
    assert message.encode()
