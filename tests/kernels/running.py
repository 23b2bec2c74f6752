"""A model runs in one thread while another thread acts on it."""

import threading
from collections.abc import Callable
from typing import Any


def while_another(act: Callable[[], Any], run: Callable[[], bool], *, times: int) -> list[bool]:
    """What `run` says each time, while another thread acts again and again."""
    stop, failed = threading.Event(), list[BaseException]()

    def repeat() -> None:
        try:
            while not stop.is_set():
                act()
        except BaseException as error:  # noqa: BLE001  # told by the thread that waits
            failed.append(error)

    thread = threading.Thread(target=repeat)
    thread.start()
    try:
        found = [run() for _ in range(times)]
    finally:
        stop.set()
        thread.join()
    assert failed == []
    return found
