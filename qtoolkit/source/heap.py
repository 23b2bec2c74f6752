"""The C library's heap, which keeps what is freed unless it is told to give it back."""

import ctypes
from contextlib import suppress

# Bytes that may be read until freed memory is given back: a call takes about a millisecond.
GIVE_BACK_EVERY = 2**24


def give_memory_back() -> None:
    """Return what was freed to the system.

    glibc keeps it in pieces: without this, a job on SmolLM2 held 0 to 270 MB more at its end, by chance.
    """
    with suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL("libc.so.6").malloc_trim(0)
