"""Records of every kind for the tests: by hypothesis from their fields' types, or with one text everywhere."""

import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

from hypothesis import strategies as st

from qtoolkit import records
from qtoolkit.records import Record

RECORDS: dict[str, type[Record]] = {
    name: thing
    for name in records.__all__
    if isinstance(thing := getattr(records, name), type) and issubclass(thing, Record) and thing is not Record
}
# What a settings mapping may hold: values as they come from JSON.
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=3,
)
PLAIN: dict[Any, st.SearchStrategy[Any]] = {
    str: st.text(max_size=20),
    int: st.integers(0, 2**60),
    float: st.floats(0, 1e9),
    bool: st.booleans(),
    Any: JSON_VALUES,
    types.NoneType: st.none(),
}


def any_record(kind: type[Record]) -> st.SearchStrategy[Record]:
    """Any instance of a record."""
    return build(kind, lambda hint: PLAIN[hint])


def record_of_text(kind: type[Record], text: str) -> st.SearchStrategy[Record]:
    """An instance with this text wherever a text can stand, and nothing left out."""

    def choose(hint: Any) -> st.SearchStrategy[Any]:
        plain = {str: st.just(text), Any: st.just(text), int: st.integers(1, 10**12), types.NoneType: st.nothing()}
        return plain.get(hint, PLAIN[hint])

    return build(kind, choose, min_size=1)


def build(
    kind: type[Record], plain: Callable[[Any], st.SearchStrategy[Any]], min_size: int = 0
) -> st.SearchStrategy[Any]:
    def of(hint: Any) -> st.SearchStrategy[Any]:
        origin, arguments = typing.get_origin(hint), typing.get_args(hint)
        if origin in (types.UnionType, typing.Union):
            return st.one_of(*(of(argument) for argument in arguments))
        if origin is tuple:
            return st.lists(of(arguments[0]), min_size=min_size, max_size=3).map(tuple)
        if origin is Mapping:
            return st.dictionaries(of(arguments[0]), of(arguments[1]), min_size=min_size, max_size=3)
        if isinstance(hint, type) and issubclass(hint, Record):
            return build(hint, plain, min_size)
        return plain(hint)

    hints = typing.get_type_hints(kind)
    return st.builds(kind, **{field.name: of(hints[field.name]) for field in fields(kind)})
