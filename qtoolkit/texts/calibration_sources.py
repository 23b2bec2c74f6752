"""Check, describe and fingerprint what a model may be calibrated on: texts, mixtures of them, and token ids."""

import hashlib
import json
import os
import uuid
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from qtoolkit.errors import ConfigError
from qtoolkit.files import sha256_of
from qtoolkit.texts.mixtures import check_mixture, write_mixture
from qtoolkit.texts.text_datasets import is_dataset
from qtoolkit.texts.text_files import files_of
from qtoolkit.texts.texts import check_texts, has_columns
from qtoolkit.texts.token_ids import check_token_ids, is_token_ids


def is_mixture(value: Any) -> bool:
    """Check whether a text is a mixture, source -> share; a DatasetDict is none."""
    return isinstance(value, Mapping) and not is_dataset(value)


def check_calibration(value: Any, column: str | None = None) -> None:
    """Refuse what cannot be calibrated on, before any work and without a network.

    Args:
        value: as for `check_texts`; a mixture, source -> share; or token ids as `qtoolkit.texts.token_ids` reads them.
        column: the column of its rows to read; None to choose one by its name.

    Raises:
        ConfigError: it is none of those, or clearly holds no text, or no such column.
        MissingDependencyError: the package that reads it is not installed.
    """
    if column == "":
        raise ConfigError("calibration_column is empty: name a column, or leave it out")
    if is_mixture(value):
        check_mixture(value, "calibration")
        for source, wanted in columns_of(value, column).items():
            check_texts(source, "calibration", wanted)
    elif is_token_ids(value):
        if column is not None:
            raise ConfigError(f"calibration: token ids have no columns: leave out calibration_column={column!r}")
        check_token_ids(value)
    else:
        check_texts(value, "calibration", column)


def columns_of(shares: Mapping[str, float], column: str | None) -> dict[str, str | None]:
    """Return source -> its column, for those sources of a mixture that have columns.

    Raises:
        ConfigError: a column was chosen, and no source has any.
    """
    columns = {source: column if has_columns(source) else None for source in shares}
    if column is not None and not any(columns.values()):
        raise ConfigError(f"calibration: no source has columns: leave out calibration_column={column!r}")
    return columns


def describe_calibration(value: Any) -> str:
    """Return what a config's values call a text: its name or path, or its kind and size; never the text itself."""
    if is_mixture(value):
        return _describe_mixture(value)
    if isinstance(value, str):
        return value
    if isinstance(value, os.PathLike):
        return str(os.fspath(value))
    if isinstance(value, list | tuple):
        return f"{len(value)} {'texts' if all(isinstance(one, str) for one in value) else 'rows'}"
    if is_token_ids(value) and not is_dataset(value):
        return f"{len(value)} rows"
    return type(value).__name__


def _describe_mixture(shares: Mapping[Any, Any]) -> str:
    with suppress(ConfigError):
        check_mixture(shares, "calibration")
        return write_mixture(shares.items())
    # It is refused before it is read.
    return f"{len(shares)} sources"


def calibration_fingerprint(value: Any) -> Any:
    """Return what tells one calibration text from another: hashes of its files and values, names of known texts.

    Returns:
        A text, or for a mixture the fingerprint and the share of each source. A stream has another one each time.
    """
    if is_mixture(value):
        return [[calibration_fingerprint(source), share] for source, share in value.items()]
    if isinstance(value, str | os.PathLike):
        path = Path(os.path.expanduser(value))  # noqa: PTH111  # Path raises on a home that belongs to nobody
        if os.path.isdir(path):  # noqa: PTH112  # Path raises on a name that is too long
            hashes = [[os.fspath(file.relative_to(path)), sha256_of(file)] for file in files_of(path)]
            return hashlib.sha256(json.dumps(hashes).encode()).hexdigest()
        # Likewise on a name that is too long.
        return sha256_of(path) if os.path.isfile(path) else os.fspath(value)  # noqa: PTH113
    if isinstance(value, list | tuple) or (is_token_ids(value) and not is_dataset(value)):
        return hashlib.sha256(json.dumps(value, default=_as_json).encode()).hexdigest()
    # A stream has none: each is another one.
    return str(getattr(value, "_fingerprint", uuid.uuid4().hex))


def _as_json(value: Any) -> Any:
    """Return what JSON has no values for, arrays and tensors and rows of other types, as lists and dicts."""
    return value.tolist() if hasattr(value, "tolist") else dict(value)
