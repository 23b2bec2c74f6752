"""A job that stops in good order before the system kills it for its memory."""

from collections.abc import Callable

from qtoolkit.errors import InsufficientMemoryError
from qtoolkit.measure.machine import available_memory, memory_limit
from qtoolkit.records import OnProgress, ProgressEvent
from qtoolkit.units import format_bytes

# What must be left: a part of what there is, within these bounds.
_SHARE, _LEAST, _MOST = 0.02, 64_000_000, 500_000_000


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
        if left < reserve and event.phase != "save":
            raise InsufficientMemoryError(
                f"{what} was stopped with {format_bytes(left)} of memory left, before the system kills it: {advice}"
            )

    return watch
