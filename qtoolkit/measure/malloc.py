"""Return freed memory to the system, which the C library's heap keeps otherwise, and check that memory can be had."""

import ctypes
import mmap
from contextlib import suppress

# Bytes that a job reads between two calls of `give_memory_back`: a call takes about a millisecond.
GIVE_BACK_EVERY = 2**24


def require_room(size: int) -> None:
    """Check that `size` bytes can be allocated, before calling a library that aborts the process if not, as Rust does.

    The check is for a `ulimit`: the bytes are reserved for a moment, and none of them is touched.

    Raises:
        MemoryError: the process may not have so many more bytes.
    """
    if not (size and hasattr(mmap, "MAP_PRIVATE")):
        return
    try:
        mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()
    except OSError as error:
        raise MemoryError(f"no room for {size} bytes ({error.strerror})") from error


def give_memory_back() -> None:
    """Return freed memory to the system.

    glibc keeps freed memory in fragments: without this, a job on SmolLM2 held 0 to 270 MB more at its end, by chance.
    """
    with suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL("libc.so.6").malloc_trim(0)
