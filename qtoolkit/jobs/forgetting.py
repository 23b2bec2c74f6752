"""Errors that hold no model."""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def forgetting() -> Iterator[None]:
    """Let an error pass without what its frames hold: a notebook keeps the last one, and with it a half-made model."""
    try:
        yield
    except BaseException as error:
        traceback.clear_frames(error.__traceback__)
        raise
