"""A model runs in one thread while another thread acts on it."""

import copy
import pickle
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import nn

from qtoolkit.tensor.lazy import LazyState


def save(model: nn.Module, folder: Path) -> None:
    save_file(model.state_dict(), folder / "model.safetensors")


# What another thread may do with a model, by name; beside these it may be moved.
ACTS: dict[str, Callable[[nn.Module, Path], Any]] = {
    "its state": lambda model, folder: model.state_dict(),
    "its state, lazily": lambda model, folder: [
        tensor[...] for tensor in model.state_dict(destination=LazyState()).values()
    ],
    "saving": save,
    "copying": lambda model, folder: copy.deepcopy(model),
    "pickling": lambda model, folder: pickle.dumps(model),
}


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


def beside_another(act: Callable[[], Any], run: Callable[[], bool], *, times: int) -> list[bool]:
    """What `run` says each time, while another thread acts once.

    Each begins where the other does, however busy the machine is: a thread that acts again and again may act a dozen
    times in hundreds of runs, or keep the interpreter's lock from all of them for minutes.
    """
    found = []
    with ThreadPoolExecutor(1) as another:
        for _ in range(times):
            acting = another.submit(act)
            found.append(run())
            acting.result()
    return found
