"""Read samples that are given as token ids: lists of numbers, an array or a tensor, or rows with `input_ids`."""

from collections.abc import Iterator, Mapping, Sequence
from numbers import Integral
from typing import TYPE_CHECKING, Any

from qtoolkit.errors import ConfigError
from qtoolkit.texts.text_datasets import is_dataset, is_stream

if TYPE_CHECKING:
    import numpy as np

    Ids = np.ndarray[Any, np.dtype[np.int64]]

_COLUMN = "input_ids"
_INSTEAD = "or give the texts"


def is_token_ids(value: Any) -> bool:
    """Check whether calibration text is given as token ids; what they are is not checked."""
    if _is_array(value):
        return True
    if is_dataset(value):
        return not isinstance(value, dict) and list(value.features or ()) != [] and _is_tokenized(list(value.features))
    if not isinstance(value, list | tuple) or not value:
        return False
    first = value[0]
    if isinstance(first, Mapping):
        return _is_tokenized(list(first))
    if _is_array(first):
        return True
    return isinstance(first, list | tuple) and bool(first) and _is_number(first[0])


def _is_tokenized(columns: Sequence[str]) -> bool:
    """Check whether a table holds token ids, and no texts from which others could be made."""
    return _COLUMN in columns and not {"text", "messages", "conversations"}.intersection(columns)


def check_token_ids(value: Any) -> None:
    """Refuse token ids that are no samples of one length.

    Raises:
        ConfigError: other values than whole numbers from 0, rows of several lengths, no rows.
    """
    if is_dataset(value):
        if not is_stream(value) and not len(value):
            raise ConfigError("token ids: the Dataset has no rows: give another, or 'self'")
        return
    if _is_array(value):
        _checked_array("token ids", value, dimensions=2)
        return
    widths = {len(_row_of(number, row)) for number, row in enumerate(value, start=1)}
    _refuse_ragged(widths)


def read_token_ids(value: Any, num_samples: int) -> "Ids":
    """Return the first samples that are given, int64 [at most num_samples, tokens].

    Raises:
        ConfigError: as `check_token_ids`.
    """
    import numpy as np

    if _is_array(value):
        given: Ids = _checked_array("token ids", value, dimensions=2)[:num_samples].astype(np.int64)
        return given
    rows = [_row_of(number, row) for number, row in zip(range(1, num_samples + 1), _rows(value), strict=False)]
    _refuse_ragged({len(row) for row in rows})
    return np.stack(rows)


def ids_name(value: Any) -> str:
    """Return what reports call token ids: their kind and, where it is known, their number."""
    count = "a stream of rows" if is_dataset(value) and is_stream(value) else f"{len(value)} rows"
    return f"{count} of token ids"


def _rows(value: Any) -> Iterator[Any]:
    """Yield the rows of a list or a Dataset."""
    yield from (value.with_format(None).select_columns([_COLUMN]) if is_dataset(value) else value)


def _row_of(number: int, row: Any) -> "Ids":
    """Return one row as int64 [tokens]; an array [1, tokens], as tokenizers return it, is one row too."""
    import numpy as np

    where = f"token ids: row {number}"
    if isinstance(row, Mapping):
        if _COLUMN not in row:
            raise ConfigError(f"{where} has no {_COLUMN}: give one kind of rows")
        row = row[_COLUMN]
    if not _is_array(row):
        if not isinstance(row, list | tuple):
            raise ConfigError(f"{where} is no list of numbers, but {type(row).__name__}: give one kind of rows")
        if len(row) == 1 and isinstance(row[0], list | tuple):
            row = row[0]
        wrong = next((one for one in row if not _is_number(one)), None)
        if wrong is not None:
            raise ConfigError(
                f"{where} holds {type(wrong).__name__}, and token ids are whole numbers: correct them, {_INSTEAD}"
            )
        try:
            row = np.array(row, np.int64)
        except OverflowError as error:
            raise ConfigError(f"{where} holds a number that is no token id: correct them, {_INSTEAD}") from error
    elif row.ndim == 2 and row.shape[0] == 1:
        row = row[0]
    ids: Ids = _checked_array(where, row, dimensions=1).astype(np.int64)
    return ids


def _checked_array(what: str, array: Any, *, dimensions: int) -> Any:
    """Return an array or a tensor as a numpy array, if it has that many dimensions and holds token ids."""
    import numpy as np

    # A tensor of torch may lie on a GPU, or be of a type that numpy has not.
    integers = str(array.dtype).removeprefix("torch.").startswith(("int", "uint"))
    if array.ndim != dimensions or not integers:
        wanted = "[samples, tokens]" if dimensions == 2 else "[tokens]"
        kind = f"{array.dtype} {list(array.shape)}".removeprefix("torch.")
        raise ConfigError(f"{what} must be whole numbers {wanted}, got {kind}: correct them, {_INSTEAD}")
    numbers = np.asarray(array.cpu() if hasattr(array, "cpu") else array)
    if not numbers.size:
        raise ConfigError(f"{what} must hold tokens, got none ({list(numbers.shape)}): give more, or 'self'")
    if (smallest := int(numbers.min())) < 0:
        raise ConfigError(f"{what} must be at least 0, got {smallest}: leave out the padding, {_INSTEAD}")
    if (largest := int(numbers.max())) > np.iinfo(np.int64).max:
        raise ConfigError(f"{what} must be token ids, got {largest}: correct them, {_INSTEAD}")
    return numbers


def _refuse_ragged(widths: set[int]) -> None:
    if len(widths) != 1:
        lengths = f"{min(widths)} to {max(widths)} tokens"
        raise ConfigError(f"token ids: rows of {lengths}, and samples have one length: cut them, {_INSTEAD}")


def _is_array(value: Any) -> bool:
    """Check for a numpy array or a tensor of torch, without importing either."""
    return hasattr(value, "ndim") and hasattr(value, "dtype") and hasattr(value, "shape")


def _is_number(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)
