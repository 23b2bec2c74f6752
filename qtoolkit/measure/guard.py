"""A job that stops in good order before the system kills it for its memory, and says so where memory ran out."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from qtoolkit.errors import InsufficientMemoryError, JobCancelled, memory_cause
from qtoolkit.measure.machine import available_memory, limited_by, memory_limit, resident_room
from qtoolkit.records import OnProgress, ProgressEvent
from qtoolkit.tokens import forget
from qtoolkit.units import format_bytes

# What must be left: a part of what there is, within these bounds.
_SHARE, _LEAST, _MOST = 0.02, 64_000_000, 500_000_000
# What must be left within a `ulimit`. Less than of the machine's memory: there, a step that asks for more fails, and is
# told, where the system would kill the process.
_LEAST_WITHIN = 16_000_000


def guarded(
    on_progress: OnProgress, what: str, advice: str, *, available: Callable[[], int] = available_memory
) -> OnProgress:
    """`on_progress` that stops the job when memory is nearly used up, within the limits of containers.

    It looks at each event, that is between two layers or weights: what one step takes is not cut short.

    Args:
        on_progress: is told first, so that what was done is known.
        what: the job, for the message.
        advice: what is kept, and what to do.
        available: tells how many bytes can still be had.

    Raises:
        InsufficientMemoryError: by the function that is returned.
    """
    reserve = min(_MOST, max(_LEAST, round(_SHARE * memory_limit())))

    def watch(event: ProgressEvent) -> None:
        on_progress(event)
        left = available()
        # While the result is saved, nothing grows any more.
        if left < reserve and event.phase != "save" and (left < _LEAST_WITHIN or not limited_by()):
            raise InsufficientMemoryError(
                f"{what} was stopped with {format_bytes(left)} of memory left{_within()}, before the system kills it: "
                f"{advice}"
            )

    return watch


@contextmanager
def explained(what: str, advice: str) -> Iterator[None]:
    """Let an error that says that memory ran out, of whatever library, pass as one line with what to do.

    Args:
        what: the work, for the message.
        advice: what to do.

    Raises:
        InsufficientMemoryError: memory ran out. What was half made is let go of.
    """
    try:
        yield
    except (InsufficientMemoryError, JobCancelled):
        raise
    except Exception as error:
        cause = memory_cause(error)
        if not cause:
            raise
        # First, since to look for the limit takes memory too, and the frames hold a model.
        forget(error)
        where = " on the GPU" if "CUDA" in cause else _within()
        raise InsufficientMemoryError(f"memory{where} ran out in {what} ({cause}): {advice}") from error


def check_room(needed: int, what: str, advice: str) -> None:
    """Refuse work that needs more than a `ulimit` leaves.

    Args:
        needed: bytes that it will have resident beside what this process has now.
        what: the work, for the message.
        advice: what to do.

    Raises:
        InsufficientMemoryError: it needs more.
    """
    room, command = resident_room()
    if command and room < needed:
        raise InsufficientMemoryError(
            f"{what} needs {format_bytes(needed)} of memory, and {command} leaves {format_bytes(room)}: "
            f"raise that limit, or {advice}"
        )


def _within() -> str:
    """Return the limit that counts, for a message; empty where there is none, or not enough memory to look for it."""
    try:
        command = limited_by()
    except MemoryError:
        return ""
    return f" within {command}" if command else ""
