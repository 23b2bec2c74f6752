"""One block run over all samples, stopped wherever a layer's inputs are wanted."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, NamedTuple

import torch
from torch import nn

# What paused samples may hold; beyond it a block is run again for each group of layers.
MAX_HELD_BYTES = 2**30

Call = Callable[[], torch.Tensor]


class Trace(NamedTuple):
    """What one forward of a block shows of its structure.

    Attributes:
        groups: names of layers that are given the same inputs, in the order in which they run.
        output: of the block.
        held_bytes: of the widest inputs and the output: about what a sample holds that is paused.
    """

    groups: tuple[tuple[str, ...], ...]
    output: Any
    held_bytes: int


def trace(block: nn.Module, names: Sequence[str], call: Callable[[], Any]) -> Trace:
    """Run a block once, and find which of its layers share their inputs.

    Args:
        block: a block with values.
        names: of the layers asked about, within the block.
        call: runs the block on some sample.
    """
    seen: list[tuple[torch.Tensor, list[str]]] = []

    def note(name: str, x: torch.Tensor) -> None:
        # By identity: seen inputs are kept, so that none takes the place of another in memory.
        for earlier, group in seen:
            if earlier is x:
                group.append(name)
                return
        seen.append((x, [name]))

    with _hooks(block, names, note), torch.inference_mode():
        output = call()
    tensor = output[0] if isinstance(output, tuple) else output
    held = max((x.nbytes for x, _ in seen), default=0) + 2 * tensor.nbytes
    return Trace(tuple(tuple(group) for _, group in seen), output, held)


def collect(
    block: nn.Module, stops: Sequence[str], calls: Sequence[Call], see: Callable[[str, torch.Tensor], None]
) -> None:
    """Show `see` the inputs of all the layers named, each sample being run once, up to the last of them."""
    for call in calls:

        def note(name: str, x: torch.Tensor) -> None:
            see(name, x)
            if name == stops[-1]:
                raise _Reached

        with _hooks(block, stops, note), torch.inference_mode(), suppress(_Reached):
            call()


class PausedForwards:
    """Every sample runs through the block once, each in a thread of its own that waits where inputs are wanted.

    So a layer sees what the layers before it make once they are quantized (`true_sequential`), at the price of one
    forward. One thread runs at a time.

    Args:
        block: the block.
        stops: names of layers in the order in which they run; each sample pauses before each of them.
        calls: run the block, one for each sample.
    """

    def __init__(self, block: nn.Module, stops: Sequence[str], calls: Sequence[Call]) -> None:
        self._order = {name: place for place, name in enumerate(stops)}
        self._runs = [_Run(call) for call in calls]
        self._hooks = _hooks(block, stops, self._pause)
        self._hooks.__enter__()

    def inputs(self, name: str) -> Iterator[torch.Tensor]:
        """The inputs of the layer, sample by sample; of an expert, those that its router gave it."""
        for run in self._runs:
            # A sample that never comes here waits at a later layer, or has ended.
            while not run.ended and (run.at is None or self._order[run.at] < self._order[name]):
                run.go_on()
            if run.at == name:
                assert run.inputs is not None
                yield run.inputs

    def outputs(self) -> Iterator[torch.Tensor]:
        """The outputs of the block, sample by sample."""
        for run in self._runs:
            while not run.ended:
                run.go_on()
            yield run.take_output()

    def close(self) -> None:
        """End all threads."""
        self._hooks.__exit__(None, None, None)
        for run in self._runs:
            run.cancel()

    def _pause(self, name: str, x: torch.Tensor) -> None:
        run = getattr(_current, "run", None)
        assert isinstance(run, _Run)
        run.pause(name, x)


class RepeatedForwards:
    """As `PausedForwards`, but every sample is run again, up to the layer that is asked for: nothing is held.

    Takes about two and a half forwards of a block instead of one; the inputs are the same.
    """

    def __init__(self, block: nn.Module, stops: Sequence[str], calls: Sequence[Call]) -> None:
        self._block, self._calls = block, calls

    def inputs(self, name: str) -> Iterator[torch.Tensor]:
        """As `PausedForwards.inputs`."""
        for call in self._calls:
            found: list[torch.Tensor] = []

            def stop(_: str, x: torch.Tensor, found: list[torch.Tensor] = found) -> None:
                found.append(x)
                raise _Reached

            with _hooks(self._block, [name], stop), torch.inference_mode(), suppress(_Reached):
                call()
            yield from found

    def outputs(self) -> Iterator[torch.Tensor]:
        """As `PausedForwards.outputs`."""
        for call in self._calls:
            with torch.inference_mode():
                yield call()

    def close(self) -> None:
        """Nothing to end."""


class _Reached(Exception):
    """Thrown from a hook to leave a forward."""


class _Cancelled(BaseException):
    """Thrown in a paused thread to end it; no `except Exception` of a model may stop it."""


_current = threading.local()


class _Run:
    """One sample's forward in a thread that runs only between `go_on` and the next pause."""

    def __init__(self, call: Call) -> None:
        self.at: str | None = None
        self.inputs: torch.Tensor | None = None
        self.ended = False
        self._call: Call | None = call
        self._output: torch.Tensor | None = None
        self._error: BaseException | None = None
        self._orders: SimpleQueue[bool] = SimpleQueue()
        self._news: SimpleQueue[None] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def go_on(self) -> None:
        """Run to the next pause or to the end, and raise what the forward raised."""
        self.at = self.inputs = None
        if self._thread is None:
            self._thread = threading.Thread(target=self._forward, daemon=True)
            self._thread.start()
        else:
            self._orders.put(True)
        self._news.get()
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def pause(self, name: str, x: torch.Tensor) -> None:
        """In the thread: wait for the next order."""
        self.at, self.inputs = name, x
        del x
        self._news.put(None)
        if not self._orders.get():
            raise _Cancelled

    def take_output(self) -> torch.Tensor:
        """The output, which is let go of here."""
        output, self._output = self._output, None
        assert output is not None
        return output

    def cancel(self) -> None:
        """End the thread, and wait for that."""
        self.at = self.inputs = self._call = None
        if self._thread is not None and self._thread.is_alive():
            self._orders.put(False)
            self._thread.join()

    def _forward(self) -> None:
        _current.run = self
        call, self._call = self._call, None
        assert call is not None
        try:
            # Of this thread: torch keeps the mode for each.
            with torch.inference_mode():
                self._output = call()
        except _Cancelled:
            return
        except BaseException as error:  # noqa: BLE001 - raised again where it is waited for
            self._error = error
        self.ended = True
        self._news.put(None)


class _hooks:  # noqa: N801 - used as a function
    """While it is entered, `note(name, inputs)` is called before each of the named layers of a block runs."""

    def __init__(self, block: nn.Module, names: Sequence[str], note: Callable[[str, torch.Tensor], None]) -> None:
        self._block, self._names, self._note = block, names, note
        self._handles: list[Any] = []

    def __enter__(self) -> None:
        for name in self._names:
            module = self._block.get_submodule(name)
            self._handles.append(module.register_forward_pre_hook(self._hook(name), with_kwargs=True))

    def __exit__(self, *exc: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _hook(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self._note(name, args[0] if args else next(iter(kwargs.values())))

        return hook
