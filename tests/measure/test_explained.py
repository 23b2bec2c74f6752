"""Memory that runs out, in whatever library, is one line that says what to do; what else goes wrong stays as it is."""

import errno
import gc
import weakref

import pytest
import torch

import qtoolkit as qt
from qtoolkit.errors import InsufficientMemoryError, JobCancelled, MissingDependencyError, SourceError, importing
from qtoolkit.measure.guard import explained

CPU = (
    "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate "
    "56623104 bytes. Error code 12 (Cannot allocate memory)"
)
CUDA = (
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 14.74 GiB of which 1.02 GiB is "
    "free. Process 17 has 13.70 GiB memory in use. Of the allocated memory 13.00 GiB is PyTorch's.\nAnd more."
)
RAN_OUT = {
    "python": (MemoryError(), "MemoryError"),
    "torch, on a CPU": (RuntimeError(CPU), "DefaultCPUAllocator: can't allocate memory: you tried to allocate"),
    "torch, on a GPU": (torch.OutOfMemoryError(CUDA), "of which 1.02 GiB is free)"),
    "cublas": (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling x"), "CUBLAS_STATUS_ALLOC_FAILED"),
    "a thread": (RuntimeError("can't start new thread"), "can't start new thread"),
    "the dynamic linker": (ImportError("x.so: failed to map segment from shared object"), "failed to map segment"),
    "the kernel": (OSError(errno.ENOMEM, "Cannot allocate memory"), "Cannot allocate memory"),
    "C++": (RuntimeError("std::bad_alloc"), "std::bad_alloc"),
    "python, without room for the error": (SystemError("error return without exception set"), "without exception set"),
    "python, of a call": (
        SystemError("<f> returned NULL without setting an exception"),
        "without setting an exception",
    ),
}


@pytest.mark.parametrize(("error", "cause"), RAN_OUT.values(), ids=RAN_OUT)
def test_memory_that_ran_out_is_one_line(error: Exception, cause: str) -> None:
    with pytest.raises(InsufficientMemoryError) as caught, explained("quantizing", "take fewer bits"):
        raise error
    text = str(caught.value)
    assert text.startswith("memory") and "ran out in quantizing (" in text and text.endswith("): take fewer bits")
    assert cause in text and len(text.splitlines()) == 1
    assert ("on the GPU" in text) == ("CU" in cause or "GiB" in cause)


def test_an_error_that_was_made_of_it_is_told_too() -> None:
    told = r"ran out in loading \(MemoryError\): free some"
    with pytest.raises(InsufficientMemoryError, match=told), explained("loading", "free some"):
        raise SourceError("the tokenizer cannot be read (MemoryError): download it again") from MemoryError()


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
        OSError(errno.ENOSPC, "No space left on device"),
        ImportError("libgomp.so.1: cannot allocate memory in static TLS block"),
        ValueError("this card says: out of memory"),
        JobCancelled("stopped"),
        InsufficientMemoryError("nf4 does not fit"),
    ],
    ids=str,
)
def test_other_errors_pass(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, explained("loading", "free some"):
        raise error
    assert caught.value is error


def test_what_was_half_made_is_let_go_of() -> None:
    """Of the error and of what it was raised from: memory is what lacks."""
    made: list[weakref.ref[torch.Tensor]] = []

    def fail() -> None:
        tensor = torch.ones(3)
        made.append(weakref.ref(tensor))
        raise MemoryError

    def wrap() -> None:
        try:
            fail()
        except MemoryError as error:
            raise RuntimeError("loading failed") from error

    with pytest.raises(InsufficientMemoryError) as caught, explained("loading", "free some"):
        wrap()
    gc.collect()
    assert caught.value.__cause__ is not None and made[0]() is None


def test_an_import_for_which_memory_lacks_is_one_line() -> None:
    told = r"imported for qt\.load \(MemoryError\): .*ulimit -v"
    with pytest.raises(InsufficientMemoryError, match=told), importing("qt.load"):
        raise MemoryError
    with pytest.raises(MissingDependencyError, match=r"^gone$"), importing("qt.load"):
        raise MissingDependencyError("gone")


@pytest.mark.parametrize("kind", [ModuleNotFoundError, AttributeError, RecursionError, SystemError])
def test_an_import_that_fails_otherwise_is_one_line(kind: type[Exception]) -> None:
    told = r"do not import here for qt\.load \(Could not import module 'PreTrainedModel'\): raise `ulimit -v`"
    with pytest.raises(MissingDependencyError, match=told), importing("qt.load"):
        raise kind("Could not import module 'PreTrainedModel'.\nSet the logging verbosity")


def test_a_config_of_a_method_that_does_not_import_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> None:
        raise ModuleNotFoundError(f"Could not import module {name!r}")

    monkeypatch.setattr("qtoolkit.methods.find_config", fail)
    with pytest.raises(MissingDependencyError, match=r"qt\.Odd \(Could not import module 'Odd'\)"):
        qt.Odd  # noqa: B018  # looked up when it is asked for
