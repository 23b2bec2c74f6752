"""Files that lie: values put into JSON at any place, bytes changed, and what must come of it."""

import json
import os
from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from qtoolkit.errors import QToolkitError

# `FUZZ=60 pytest tests/fuzz` tries sixty times as many.
FACTOR = int(os.environ.get("FUZZ", "1"))
EDGES: tuple[Any, ...] = (
    *(None, True, False, "", "x", "two", "a\nb", "float32", "\ud800", "x" * 100_000, "../../etc/passwd", "a\0b"),
    *(0, 1, 2, 3, -1, 255, 513, 4096, 10**5, 10**6, 10**9, 2**31, 2**63, 10**18, 10**30, -(10**9)),
    *(0.5, -0.0, 1e308, float("nan"), float("inf"), float("-inf")),
    *([], {}, [[]], [1], [0] * 1000, ["full_attention"], ["x"] * 3, {"a": 1}, {"": None}),
)


def examples(count: int) -> settings:
    """So many examples, the same in every run, or `FACTOR` times as many others where somebody asks; none is timed."""
    checks = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]
    return settings(
        deadline=None,
        max_examples=count * FACTOR,
        suppress_health_check=checks,
        database=None,
        derandomize=FACTOR == 1,
    )


def ends_well(call: Callable[[], Any]) -> QToolkitError | None:
    """Call it: it works, or ends in one line of ours; a panic of Rust code fails like any other error."""
    try:
        call()
    except QToolkitError as error:
        message = str(error)
        assert len(message.splitlines()) == 1, message
        assert len(message) <= 6_000, message
        return error
    return None


def edges(*more: Any) -> st.SearchStrategy[Any]:
    """A value that no writer of such a file had in mind."""
    small = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
    nested = st.recursive(
        small,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
        max_leaves=4,
    )
    return st.sampled_from((*EDGES, *more)) | nested


@st.composite
def mutated(draw: st.DrawFn, values: Any, keys: tuple[str, ...] = (), more: tuple[Any, ...] = ()) -> Any:
    """A JSON value with one to three places changed, removed or added.

    Args:
        draw: hypothesis's.
        values: what a sound file holds.
        keys: names that may be added at its top.
        more: further values to put there.
    """
    changed = deepcopy(values)
    for _ in range(draw(st.integers(1, 3))):
        places = list(_places(changed, ()))
        place = draw(st.sampled_from([*places, *((key,) for key in keys)] or [("x",)]))
        parent = changed
        for key in place[:-1]:
            parent = parent[key]
        if draw(st.integers(0, 5)) == 0 and isinstance(parent, dict):
            parent.pop(place[-1], None)
        elif isinstance(parent, dict | list):
            parent[place[-1]] = deepcopy(draw(edges(*more)))
    return changed


def _places(value: Any, place: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for number, (key, item) in enumerate(items):
        if number < 50:
            yield (*place, key)
            yield from _places(item, (*place, key))


def as_json(values: Any) -> bytes:
    """JSON as Python writes it: NaN, and halves of characters as escapes."""
    return json.dumps(values).encode()


@st.composite
def damaged(draw: st.DrawFn, data: bytes, header: int) -> bytes:
    """Bytes of a file with some of the first `header` changed, or with an end that is missing."""
    content = bytearray(data)
    for _ in range(draw(st.integers(0, 4))):
        place = draw(st.integers(0, header - 1))
        new = draw(
            st.binary(min_size=1, max_size=8)
            | st.sampled_from([b"\xff" * 8, b"\0" * 8, (10**18).to_bytes(8, "little"), (2**31).to_bytes(8, "little")])
        )
        content[place : place + len(new)] = new
    if draw(st.integers(0, 4)) == 0:
        del content[draw(st.integers(0, len(content))) :]
    return bytes(content)
