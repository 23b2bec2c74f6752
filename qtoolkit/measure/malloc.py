"""The C library's heap, which keeps what is freed unless it is told to give it back."""

import ctypes
import mmap
from contextlib import suppress

# Bytes that may be read until freed memory is given back: a call takes about a millisecond.
GIVE_BACK_EVERY = 2**24


def require_room(size: int) -> None:
    """Refuse work in a library that ends the process where memory runs out, as Rust does, before it begins.

    What is looked at is a `ulimit`: so many bytes are set aside for a moment, and none of them is touched.

    Raises:
        MemoryError: the process may not have so many bytes more.
    """
    if not (size and hasattr(mmap, "MAP_PRIVATE")):
        return
    try:
        mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()
    except OSError as error:
        raise MemoryError(f"no room for {size} bytes ({error.strerror})") from error


def give_memory_back() -> None:
    """Return what was freed to the system.

    glibc keeps it in pieces: without this, a job on SmolLM2 held 0 to 270 MB more at its end, by chance.
    """
    with suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL("libc.so.6").malloc_trim(0)
