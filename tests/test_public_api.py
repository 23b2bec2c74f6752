"""The public surface: what `__all__` promises is there, is told in a docstring, and says what it returns."""

import inspect
from collections.abc import Callable, Iterator

import pytest

import qtoolkit

NAMES = [name for name in qtoolkit.__all__ if not name.startswith("__")]


def callables(name: str) -> Iterator[tuple[str, Callable[..., object]]]:
    """A public function, or a public class's own public methods and properties, with their full names."""
    item = getattr(qtoolkit, name)
    if inspect.isfunction(item):
        yield name, item
    if inspect.isclass(item):
        for base in (base for base in item.__mro__ if base.__module__.startswith("qtoolkit")):
            for attribute, value in vars(base).items():
                function = inspect.unwrap(getattr(value, "fget", None) or getattr(value, "__func__", value))
                if not attribute.startswith("_") and inspect.isfunction(function):
                    yield f"{name}.{attribute}", function


def test_all_names_nothing_twice() -> None:
    assert len(qtoolkit.__all__) == len(set(qtoolkit.__all__))


def test_dir_lists_what_all_promises() -> None:
    assert set(qtoolkit.__all__) <= set(dir(qtoolkit))


@pytest.mark.parametrize("name", NAMES)
def test_name_is_importable_and_documented(name: str) -> None:
    item = getattr(qtoolkit, name)
    # A dataclass without a docstring gets its signature as one.
    assert (inspect.getdoc(item) or f"{name}(").startswith(f"{name}(") is False


@pytest.mark.parametrize("name", NAMES)
def test_functions_are_documented_and_say_what_they_return(name: str) -> None:
    for full_name, function in callables(name):
        assert inspect.getdoc(function), full_name
        assert inspect.signature(function).return_annotation is not inspect.Signature.empty, full_name


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="quantise"):
        _ = qtoolkit.quantise


def test_every_error_is_caught_by_the_root() -> None:
    errors = [item for name in NAMES if inspect.isclass(item := getattr(qtoolkit, name)) if issubclass(item, Exception)]
    assert qtoolkit.QToolkitError in errors
    assert all(issubclass(error, qtoolkit.QToolkitError) for error in errors)
