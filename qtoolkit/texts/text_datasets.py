"""Read text from a Dataset of the package datasets, given by the user."""

import importlib
import sys
from typing import Any

from qtoolkit.errors import ConfigError, SourceError, oneline
from qtoolkit.texts.text_files import Documents
from qtoolkit.texts.text_rows import RowKind, RowReader, choose_kind


def is_dataset(value: Any) -> bool:
    """Check whether a value is a Dataset of the package datasets, without importing the package."""
    datasets = sys.modules.get("datasets")
    return datasets is not None and isinstance(
        value, datasets.Dataset | datasets.IterableDataset | datasets.DatasetDict | datasets.IterableDatasetDict
    )


def is_stream(dataset: Any) -> bool:
    """Check whether a Dataset gives its rows only one after the other, such as over a network."""
    return isinstance(dataset, importlib.import_module("datasets").IterableDataset)


def check_dataset(dataset: Any, column: str | None = None) -> None:
    """Refuse a Dataset that clearly holds no text; no row is read.

    Raises:
        ConfigError: it is a dict of splits, is empty, or has no column with texts or chats.
    """
    if isinstance(dataset, dict):
        splits = ", ".join(map(repr, dataset))
        raise ConfigError(f"text: a {type(dataset).__name__} holds several Datasets: give one of them ({splits})")
    if not is_stream(dataset) and not len(dataset):
        raise ConfigError("text: the Dataset has no rows: give another, or 'self'")
    if dataset.features is not None:
        _kind_of(dataset, column)


def _kind_of(dataset: Any, column: str | None) -> RowKind:
    kinds = {name: getattr(feature, "dtype", "") for name, feature in dataset.features.items()}
    texts = [name for name, kind in kinds.items() if kind in {"string", "large_string"}]
    return choose_kind(list(kinds), texts, column, f"text: the {type(dataset).__name__}")


def read_dataset(dataset: Any, reader: RowReader) -> Documents:
    """Read the documents of a Dataset: one for each row.

    Args:
        dataset: the Dataset.
        reader: reads its rows.

    Raises:
        ConfigError: it has no column with texts or chats, or a row that is none.
        SourceError: it cannot be read.
    """
    try:
        # Formats such as pandas or torch would give other types than str.
        plain = dataset.with_format(None)
        if plain.features is None:
            plain = plain._resolve_features()  # noqa: SLF001  # as the package itself does when it needs them
        kind = reader.kind = _kind_of(plain, reader.column)
        for number, row in enumerate(plain.select_columns([*kind.needed, *kind.wanted]), start=1):
            text = reader(f"text: row {number} of the Dataset", row)
            if text is not None:
                yield (text,)
    except ConfigError:
        raise
    except Exception as error:  # its rows may come from any source, through the user's own code
        raise SourceError(f"text: the Dataset cannot be read ({oneline(error)}): try list(dataset)") from error
