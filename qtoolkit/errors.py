"""Define every error that qtoolkit raises on purpose.

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

Each message is one line: what is wrong, the value got, the values allowed, and the next step. `oneline` shortens a
message of another library to that, `memory_cause` recognizes messages about memory that ran out, and a Hub token in a
message is masked.
"""

import errno
import re
from collections import abc
from contextlib import contextmanager
from difflib import get_close_matches

# How libraries report that memory ran out: torch's allocators, CUDA's libraries, Python's threads, the dynamic linker,
# C++, the kernel, and Python itself if it had no memory left for the error. A linker's message about a "static TLS
# block" is not about memory.
_NO_MEMORY = re.compile(
    r"out of memory|allocate memory(?! in static TLS)|_ALLOC_FAILED|start new thread|failed to map segment|bad_alloc"
    r"|without exception set|without setting an exception",
    re.IGNORECASE,
)
# Bytes reserved during an import and freed when it fails, so that there is memory to report the failure.
_RESERVE = 4_000_000
# Prefix of torch's messages: the line in its source that raised the error.
_ENFORCE = re.compile(r"^\[enforce fail at [^]]*\] .*?\. (?=[A-Z])")

# Characters of a message: a path has up to 4,096, but a config may hold a string of a million.
_LONGEST = 6_000
# Characters of any other text that is shown.
_MAX_PRINTED = 10_000
# Real tokens have 34 letters and digits after the prefix.
_TOKEN = re.compile(r"(hf|api_org)_[A-Za-z0-9]{16,}")
# User name and password of a URL.
_LOGIN = re.compile(r"(?<=://)[^/\s@:]*:[^/\s]*@")


def masked(text: str, token: str | None = None) -> str:
    """Return a text with Hub tokens, and user names and passwords in URLs, replaced: "hf_…" for a token.

    Args:
        text: a text that will be shown.
        token: a token to replace too, whatever it looks like.
    """
    text = _LOGIN.sub("…@", _TOKEN.sub(r"\1_…", text))
    return text.replace(str(token), "hf_…") if token and len(token) >= 8 else text


def did_you_mean(name: str, known: abc.Iterable[str]) -> str:
    """Return the known name that is nearest to a mistyped one, as a part of a message; empty where none is near.

    Case, hyphens and underscores do not count, nor what all options begin with. A single letter is the first one.

    Example:
        >>> did_you_mean("--group_size", ["--bits", "--group-size"])
        'did you mean --group-size? '
    """
    letters = {one.lower().replace("_", "-").lstrip("-"): one for one in known}
    typed = name.lower().replace("_", "-").lstrip("-")
    near = get_close_matches(typed, letters, n=1)
    if len(typed) == 1:
        near = [one for one in letters if one.startswith(typed)]
    return f"did you mean {letters[near[0]]}? " if near else ""


def printable(text: str) -> str:
    r"""Return a text that any screen and file takes: unprintable characters escaped, and a long end cut off.

    Example:
        >>> print(printable("one\x1b[2Jline\udce9"))
        one\x1b[2Jline\udce9
    """
    # Python decodes a file name that is not UTF-8 to lone surrogates, which no terminal and no Hub accepts.
    shown = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text[:_MAX_PRINTED])
    return shown if len(text) <= _MAX_PRINTED else f"{shown}..."


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 300]} ... {text[-290:]}"


class QToolkitError(Exception):
    """Root of every error that qtoolkit raises on purpose.

    In its message, text that looks like a Hub token is masked and unprintable characters are escaped. The middle of a
    very long message, which quotes somebody's file, is left out: its beginning says what is wrong, and its end what to
    do.
    """

    def __init__(self, *args: object) -> None:
        super().__init__(*(printable(_shortened(masked(arg))) if isinstance(arg, str) else arg for arg in args))


class ConfigError(QToolkitError, ValueError):
    """An option has a value that it cannot have: `NF4: double_quant must be true or false, got 'yes'`."""


class UnknownMethodError(ConfigError):
    """No method has this name; the message lists the methods."""


class SourceError(QToolkitError):
    """A model cannot be read."""


class ModelNotFoundError(SourceError, FileNotFoundError):
    """The name is neither a folder, nor a `.gguf` file, nor a repository on the Hub."""


class HubUnreachableError(SourceError, ConnectionError):
    """The Hub does not answer, and the model is not complete in the local cache."""


class GatedModelError(SourceError, PermissionError):
    """The Hub knows the repository but does not give this token access to it."""


class CheckpointError(SourceError, ValueError):
    """A weight file is truncated or not what its header says, or weights of the model are missing."""


class UnsafeCheckpointError(SourceError):
    """Loading would run somebody else's code: pickled weights, or a model class from the repository."""


class UnsupportedModelError(SourceError, ValueError):
    """A valid model that this method cannot quantize: already quantized, or without a language-model head."""


class OutputError(QToolkitError, OSError):
    """The result cannot be written."""


class OutputExistsError(OutputError, FileExistsError):
    """The output folder exists; `overwrite=True` replaces it."""


class DiskFullError(OutputError):
    """The disk has not enough room for the result."""


class VerificationError(QToolkitError, ValueError):
    """A saved model fails a check of `qt.verify`, or has no receipt to be checked by; it is not published."""


class InsufficientMemoryError(QToolkitError, MemoryError):
    """The job needs more memory than this machine has free."""


class MissingDependencyError(QToolkitError, ImportError):
    """An optional package is not installed or fails to import; the message says how to install it."""


class JobCancelled(QToolkitError):
    """An `on_progress` callback raises this to stop the job; nothing half-written is left behind."""


def oneline(error: BaseException) -> str:
    """Return the first line of an error's message, for use inside a message of ours.

    The second line is added where the first ends in a colon. At most 500 characters are returned, since a message may
    quote a file.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    text = " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]
    return f"{text[:500]}..." if len(text) > 500 else text.rstrip(" .:")


def memory_cause(error: BaseException) -> str:
    """Return the message, in one line, that an error or one of its causes gives of memory that ran out, or "".

    Libraries wrap such errors in others, and so does this one: "the tokenizer cannot be read".
    """
    seen: list[BaseException] = []
    pending: BaseException | None = error
    while pending is not None and pending not in seen:
        seen.append(pending)
        speaks = isinstance(pending, RuntimeError | ImportError | SystemError | SourceError)
        is_memory = isinstance(pending, MemoryError) or getattr(pending, "errno", None) == errno.ENOMEM
        if is_memory or (speaks and _NO_MEMORY.search(str(pending))):
            # The first three sentences: CUDA's others are about its allocator.
            return ". ".join(_ENFORCE.sub("", oneline(pending)).split(". ")[:3])
        pending = pending.__cause__ or (None if pending.__suppress_context__ else pending.__context__)
    return ""


@contextmanager
def importing(name: str) -> abc.Iterator[None]:
    """Raise a one-line error where an import in the block fails, mostly because memory ran out.

    Args:
        name: what is imported, for the message.

    Raises:
        InsufficientMemoryError: memory ran out.
        MissingDependencyError: the import failed otherwise. With little memory, Python takes a file that it cannot
            look up for a missing module, and a part of a library that it could not load for one that does not exist.
    """
    reserve: list[bytearray] = []
    try:
        reserve.append(bytearray(_RESERVE))
        yield
    except QToolkitError:
        raise
    except (ImportError, AttributeError, RuntimeError, SystemError, MemoryError, OSError) as error:
        reserve.clear()
        cause = memory_cause(error)
        if cause:
            what = f"memory ran out while torch and transformers were imported for {name} ({cause})"
            raise InsufficientMemoryError(f"{what}: free some, or raise `ulimit -v`") from error
        what = f"torch and transformers do not import here for {name} ({oneline(error)})"
        raise MissingDependencyError(f"{what}: raise `ulimit -v` where one is set, or install them anew") from error
