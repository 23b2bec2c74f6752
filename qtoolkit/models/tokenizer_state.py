"""Remember the files that a tokenizer was read from, and tell whether it is still what they hold."""

from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

# Ids whose tokens tell one vocabulary from another: spread over all that there are.
_IDS = [7919 * index % 300_000 for index in range(64)]
_OPTIONS = ("padding_side", "truncation_side", "model_max_length", "chat_template")
_PARTS = ("normalizer", "pre_tokenizer", "post_processor", "decoder")
_read: "WeakKeyDictionary[Any, tuple[Path, tuple[Any, ...]]]" = WeakKeyDictionary()


def remember_source(tokenizer: Any, folder: Path) -> None:
    """Remember that a tokenizer is what the files of a folder hold."""
    state = _state(tokenizer)
    if state is not None:
        _read[tokenizer] = folder, state


def unchanged_source(tokenizer: Any) -> Path | None:
    """Return the folder that a tokenizer was read from; None where it was changed since, or the folder has gone."""
    folder, state = _read.get(tokenizer, (None, None))
    return folder if folder is not None and folder.is_dir() and _state(tokenizer) == state else None


def _state(tokenizer: Any) -> tuple[Any, ...] | None:
    """Return what decides how a tokenizer cuts and joins text; None for one without a backend that tells it.

    The vocabulary itself, whose copy would take a tenth of a second, is told by some of its tokens.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return None
    parts = [getattr(backend, name) for name in _PARTS]
    return (
        *(None if part is None else part.__getstate__() for part in parts),
        [backend.id_to_token(number) for number in _IDS],
        repr(sorted(tokenizer.added_tokens_decoder.items())),
        repr(tokenizer.special_tokens_map),
        repr([getattr(tokenizer, name, None) for name in _OPTIONS]),
        repr(tokenizer.init_kwargs),
    )
