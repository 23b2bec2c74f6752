"""Stop a job cleanly before the system kills it for its memory, and report memory that ran out in one line."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic

from qtoolkit.errors import InsufficientMemoryError, JobCancelled, memory_cause
from qtoolkit.measure.memory_limits import available_memory, limited_by, memory_limit, resident_room
from qtoolkit.records import OnProgress, ProgressEvent
from qtoolkit.tokens import forget
from qtoolkit.units import format_bytes

# What must be left: a share of the limit, within these bounds in bytes.
_SHARE, _MIN_LEFT, _MAX_LEFT = 0.02, 64_000_000, 500_000_000
# What must be left within a `ulimit`: less, since an allocation beyond it fails with an error that can be reported,
# whereas without free memory the system would kill the process.
_MIN_LEFT_BY_ULIMIT = 16_000_000
# Seconds for which a figure counts: to ask takes 1 to 2 ms, as long as a small layer, and 5 ms fill some 50 MB.
_INTERVAL = 0.005


def guarded(
    on_progress: OnProgress, what: str, advice: str, *, available: Callable[[], int] | None = None
) -> OnProgress:
    """Return an `on_progress` that stops the job when memory is nearly used up, within the limits of containers.

    Memory is checked at each event, that is between two layers or weights; a single step is not interrupted.

    Args:
        on_progress: called first, so that the step is reported even if the job stops.
        what: the job, for the message.
        advice: what is kept, and what to do, for the message.
        available: returns how many bytes can still be used; None for `available_memory`, asked every `_INTERVAL`.

    Raises:
        InsufficientMemoryError: by the returned function.
    """
    available = available or _asked_at_intervals(available_memory)
    reserve = min(_MAX_LEFT, max(_MIN_LEFT, round(_SHARE * memory_limit())))

    def watch(event: ProgressEvent) -> None:
        on_progress(event)
        left = available()
        # While the result is saved, memory does not grow any more.
        if left < reserve and event.phase != "save" and (left < _MIN_LEFT_BY_ULIMIT or not limited_by()):
            raise InsufficientMemoryError(
                f"{what} was stopped with {format_bytes(left)} of memory left{_within()}, before the system kills it: "
                f"{advice}"
            )

    return watch


def _asked_at_intervals(available: Callable[[], int]) -> Callable[[], int]:
    """Return a function that asks another one, and answers what that said for the next `_INTERVAL` seconds."""
    asked, left = float("-inf"), 0

    def answer() -> int:
        nonlocal asked, left
        if monotonic() - asked >= _INTERVAL:
            left, asked = available(), monotonic()
        return left

    return answer


@contextmanager
def explained(what: str, advice: str) -> Iterator[None]:
    """Turn an error of any library that means that memory ran out into one line with advice.

    Args:
        what: the work, for the message.
        advice: what to do, for the message.

    Raises:
        InsufficientMemoryError: memory ran out. Unfinished objects are freed.
    """
    try:
        yield
    except (InsufficientMemoryError, JobCancelled):
        raise
    except Exception as error:
        cause = memory_cause(error)
        if not cause:
            raise
        # First of all: finding the limit takes memory too, and the traceback's frames hold a model.
        forget(error)
        where = " on the GPU" if "CUDA" in cause else _within()
        raise InsufficientMemoryError(f"memory{where} ran out in {what} ({cause}): {advice}") from error


def check_room(needed: int, what: str, advice: str) -> None:
    """Refuse work that needs more memory than a `ulimit` leaves.

    Args:
        needed: bytes that it will have resident in addition to what this process has now.
        what: the work, for the message.
        advice: what to do, for the message.

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
    """Return the limit that applies, for a message; empty if there is none, or not enough memory to find it."""
    try:
        command = limited_by()
    except MemoryError:
        return ""
    return f" within {command}" if command else ""
