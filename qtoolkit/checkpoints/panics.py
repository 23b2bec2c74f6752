"""Catch panics of Rust code (tokenizers, safetensors), which Python sees as errors that are no `Exception`."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from qtoolkit.errors import SourceError, oneline
from qtoolkit.units import format_bytes

# Ten times the size of the largest vocabularies; such a file is read as a whole.
MAX_TOKENIZER_BYTES = 400_000_000
# Words, other scripts, digits, blanks and an emoji: one of them makes a tokenizer fail whose parts do not fit.
_TEXT = "The lighthouse, 12 été привет 你好 \U0001f389\n\tx_1  "


@contextmanager
def panics_as_errors() -> Iterator[None]:
    """Raise a RuntimeError for a panic, so that `except Exception` handles it.

    Raises:
        RuntimeError: the code within panicked.
    """
    try:
        yield
    except BaseException as error:
        # Each library makes this class anew, and no module holds it.
        if type(error).__name__ == "PanicException":
            raise RuntimeError(f"its code panicked: {oneline(error)}") from error
        raise


def refuse_large_files(files: Iterable[Path]) -> None:
    """Refuse tokenizer files, sparse ones too, that are larger than any vocabulary, before they are read as a whole.

    Raises:
        SourceError: one is larger than `MAX_TOKENIZER_BYTES`.
    """
    for file in files:
        size = file.stat().st_size if file.is_file() else 0
        if size > MAX_TOKENIZER_BYTES:
            limit = format_bytes(MAX_TOKENIZER_BYTES)
            what = f"{file} has {format_bytes(size)}, and no tokenizer has more than {limit}"
            raise SourceError(f"{what}: give one as tokenizer=")


def refuse_panics(tokenizer: Any) -> None:
    """Tokenize a short text, so that a tokenizer whose parts do not fit together fails here and not within a job.

    Raises:
        RuntimeError: it panicked. Other errors are left to where the tokenizer is used.
    """
    with panics_as_errors():
        try:
            tokenizer.decode(tokenizer(_TEXT)["input_ids"])
        except Exception:  # noqa: BLE001  # a tokenizer with few words may refuse this text, and be sound
            return
