"""Every error that qtoolkit raises on purpose.

    QToolkitError
    ├── ConfigError (ValueError)                 an option has a value that it cannot have
    │   └── UnknownMethodError                   no method of that name
    ├── SourceError                              a model that cannot be read
    │   ├── ModelNotFoundError (FileNotFoundError)
    │   ├── HubUnreachableError (ConnectionError)
    │   ├── GatedModelError (PermissionError)    the Hub wants a token or an accepted licence
    │   ├── CheckpointError (ValueError)         a truncated or lying file, missing or surplus weights
    │   ├── UnsafeCheckpointError                pickled weights, or code from the repository
    │   └── UnsupportedModelError (ValueError)   already quantized, no language-model head, nothing to do
    ├── OutputError (OSError)                    the result cannot be written
    │   ├── OutputExistsError (FileExistsError)
    │   └── DiskFullError
    ├── VerificationError (ValueError)           a saved model is not what it says, so it is not published
    ├── InsufficientMemoryError (MemoryError)    the job needs more memory than there is
    ├── MissingDependencyError (ImportError)     an optional package is not installed
    └── JobCancelled                             raised by `on_progress` to stop a job

Each message is one line: what is wrong, the value got, the values allowed, and the next step. `oneline` makes a
message that came from another library fit, `memory_cause` knows those of memory that ran out, and a Hub token in one is
masked.
"""

import errno
import re
from collections import abc
from contextlib import contextmanager

# How libraries say that memory ran out: torch's allocators, CUDA's libraries, Python's threads, the dynamic linker, C++
# and the kernel. What a linker says of a "static TLS block" is no matter of memory.
_NO_MEMORY = re.compile(
    r"out of memory|allocate memory(?! in static TLS)|_ALLOC_FAILED|start new thread|failed to map segment|bad_alloc",
    re.IGNORECASE,
)
# Where in torch's source it was noticed.
_ENFORCE = re.compile(r"^\[enforce fail at [^]]*\] .*?\. (?=[A-Z])")

# A path has up to 4,096 letters; a config may hold a word of a million.
_LONGEST = 6_000
# Real ones have 34 letters and digits.
_TOKEN = re.compile(r"(hf|api_org)_[A-Za-z0-9]{16,}")
# Of an address: who asks, and the password.
_LOGIN = re.compile(r"(?<=://)[^/\s@:]*:[^/\s]*@")


def masked(text: str, token: str | None = None) -> str:
    """A text without the Hub tokens, and the passwords in addresses, that stand in it: "hf_…" in their place.

    Args:
        text: what will be shown.
        token: a token that may look otherwise.
    """
    text = _LOGIN.sub("…@", _TOKEN.sub(r"\1_…", text))
    return text.replace(str(token), "hf_…") if token and len(token) >= 8 else text


def printable(text: str, longest: int = 10_000) -> str:
    r"""A text as any screen and file takes it: what cannot be printed or encoded as its escape, and an end cut off.

    Example:
        >>> print(printable("one\x1b[2Jline\udce9"))
        one\x1b[2Jline\udce9
    """
    # A lone surrogate is what Python makes of a file name that is no UTF-8; no terminal and no Hub takes it.
    shown = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text[:longest])
    return shown if len(text) <= longest else f"{shown}..."


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 300]} ... {text[-290:]}"


class QToolkitError(Exception):
    """Root of every error that qtoolkit raises on purpose.

    What looks like a Hub token in its message is masked, and what no screen prints is escaped; of a very long one,
    which quotes somebody's file, the middle is left out: what is wrong stands at its beginning, and what to do at its
    end.
    """

    def __init__(self, *args: object) -> None:
        super().__init__(*(printable(_shortened(masked(arg))) if isinstance(arg, str) else arg for arg in args))


class ConfigError(QToolkitError, ValueError):
    """An option has a value that it cannot have: `NF4: double_quant must be true or false, got 'yes'`."""


class UnknownMethodError(ConfigError):
    """No method of that name: the message lists those there are."""


class SourceError(QToolkitError):
    """A model that cannot be read."""


class ModelNotFoundError(SourceError, FileNotFoundError):
    """Neither a folder, nor a `.gguf` file, nor a repository on the Hub."""


class HubUnreachableError(SourceError, ConnectionError):
    """The Hub does not answer, and the model is not whole in the local cache."""


class GatedModelError(SourceError, PermissionError):
    """The Hub knows the repository but does not hand it out to this token."""


class CheckpointError(SourceError, ValueError):
    """A weight file is truncated or lies about its content, or weights of the model are missing."""


class UnsafeCheckpointError(SourceError):
    """Loading would run somebody else's code: pickled weights, or a model class from the repository."""


class UnsupportedModelError(SourceError, ValueError):
    """A sound model with which this method cannot work: already quantized, or without a language-model head."""


class OutputError(QToolkitError, OSError):
    """The result cannot be written."""


class OutputExistsError(OutputError, FileExistsError):
    """The output folder exists; `overwrite=True` replaces it."""


class DiskFullError(OutputError):
    """The disk has not enough room for the result."""


class VerificationError(QToolkitError, ValueError):
    """A saved model fails a check of `qt.verify`, or has nothing to be checked by; it is not published."""


class InsufficientMemoryError(QToolkitError, MemoryError):
    """The job needs more memory than this machine has free."""


class MissingDependencyError(QToolkitError, ImportError):
    """An optional package is not installed, or does not import; the message says how to install it."""


class JobCancelled(QToolkitError):
    """Raised by an `on_progress` callback to stop the job; nothing half-written is left behind."""


def oneline(error: BaseException) -> str:
    """An error's message without its class, for use inside a message of ours: its first line.

    A first line that ends in a colon announces the second, which follows it. What a file holds may stand in it, and may
    be endless: 500 characters are enough.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    text = " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]
    return f"{text[:500]}..." if len(text) > 500 else text.rstrip(" .:")


def memory_cause(error: BaseException) -> str:
    """What says that memory ran out, in one line, of an error or of what it was raised from; empty where nothing does.

    Libraries wrap such errors in others, and so does this one: "the tokenizer cannot be read".
    """
    seen: list[BaseException] = []
    pending: BaseException | None = error
    while pending is not None and pending not in seen:
        seen.append(pending)
        is_told = isinstance(pending, RuntimeError | ImportError | SourceError) and _NO_MEMORY.search(str(pending))
        if isinstance(pending, MemoryError) or is_told or getattr(pending, "errno", None) == errno.ENOMEM:
            # Of what CUDA says, the first sentences: the others are about its allocator.
            return ". ".join(_ENFORCE.sub("", oneline(pending)).split(". ")[:3])
        pending = pending.__cause__ or (None if pending.__suppress_context__ else pending.__context__)
    return ""


@contextmanager
def importing(name: str) -> abc.Iterator[None]:
    """Let an import for which memory does not suffice fail in one line.

    Args:
        name: what is imported, for the message.

    Raises:
        InsufficientMemoryError: memory ran out.
    """
    try:
        yield
    except Exception as error:
        cause = memory_cause(error)
        if not cause:
            raise
        what = f"memory ran out while torch and transformers were imported for {name} ({cause})"
        raise InsufficientMemoryError(f"{what}: free some, or raise `ulimit -v`") from error
