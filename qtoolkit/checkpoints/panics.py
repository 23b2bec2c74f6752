"""Panics of Rust code (tokenizers, safetensors), which Python sees as errors that are no `Exception`."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from qtoolkit.errors import SourceError, oneline
from qtoolkit.units import format_bytes

# Ten times what the largest vocabularies take; all of it is read at once.
MAX_TOKENIZER_BYTES = 400_000_000
# Words, other scripts, digits, blanks and an emoji: what a tokenizer that lies about its parts stumbles over.
_TEXT = "The lighthouse, 12 été привет 你好 \U0001f389\n\tx_1  "


@contextmanager
def panics_as_errors() -> Iterator[None]:
    """Turn a panic into a RuntimeError, which whoever handles errors of foreign code expects."""
    try:
        yield
    except BaseException as error:
        # The class is made by each library anew, and stands in no module.
        if type(error).__name__ == "PanicException":
            raise RuntimeError(f"its code panicked: {oneline(error)}") from error
        raise


def refuse_large_files(files: Iterable[Path]) -> None:
    """Refuse tokenizer files that no vocabulary fills, sparse ones among them, before they are read at once.

    Raises:
        SourceError: one is larger than `MAX_TOKENIZER_BYTES`.
    """
    for file in files:
        size = file.stat().st_size if file.is_file() else 0
        if size > MAX_TOKENIZER_BYTES:
            what = (
                f"{file} has {format_bytes(size)}, and no tokenizer has more than {format_bytes(MAX_TOKENIZER_BYTES)}"
            )
            raise SourceError(f"{what}: give one as tokenizer=")


def refuse_panics(tokenizer: Any) -> None:
    """Cut a short text, so that a tokenizer whose parts do not fit together shows it here and not within a job.

    Raises:
        RuntimeError: it panicked. What else goes wrong is told where the tokenizer is used.
    """
    with panics_as_errors():
        try:
            tokenizer.decode(tokenizer(_TEXT)["input_ids"])
        except Exception:  # noqa: BLE001  # one that knows few words may refuse these, and serve well
            return
