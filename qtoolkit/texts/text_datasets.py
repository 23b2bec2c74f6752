"""Read text from a Dataset of the package datasets, given by the user."""

import importlib
import sys
from typing import Any

from qtoolkit.errors import ConfigError, SourceError, oneline
from qtoolkit.texts.text_files import Documents, text_column


def is_dataset(value: Any) -> bool:
    """Check whether a value is a Dataset of the package datasets, without importing the package."""
    datasets = sys.modules.get("datasets")
    return datasets is not None and isinstance(
        value, datasets.Dataset | datasets.IterableDataset | datasets.DatasetDict | datasets.IterableDatasetDict
    )


def is_stream(dataset: Any) -> bool:
    """Check whether a Dataset gives its rows only one after the other, such as over a network."""
    return isinstance(dataset, importlib.import_module("datasets").IterableDataset)


def check_dataset(dataset: Any) -> None:
    """Refuse a Dataset that clearly holds no text; no row is read.

    Raises:
        ConfigError: it is a dict of splits, is empty, or has no column with texts.
    """
    if isinstance(dataset, dict):
        splits = ", ".join(map(repr, dataset))
        raise ConfigError(f"text: a {type(dataset).__name__} holds several Datasets: give one of them ({splits})")
    if not is_stream(dataset) and not len(dataset):
        raise ConfigError("text: the Dataset has no rows: give another, or 'self'")
    if dataset.features is not None:
        _text_column(dataset)


def _text_column(dataset: Any) -> str:
    kinds = {name: getattr(feature, "dtype", "") for name, feature in dataset.features.items()}
    texts = [name for name, kind in kinds.items() if kind in {"string", "large_string"}]
    return text_column(texts, list(kinds), f"text: the {type(dataset).__name__}")


def read_dataset(dataset: Any) -> Documents:
    """Read the documents of a Dataset: one for each row.

    Raises:
        ConfigError: it has no column with texts.
        SourceError: it cannot be read.
    """
    try:
        # Formats such as pandas or torch would give other types than str.
        plain = dataset.with_format(None)
        if plain.features is None:
            plain = plain._resolve_features()  # noqa: SLF001  # as the package itself does when it needs them
        column = _text_column(plain)
        for row in plain.select_columns(column):
            if row[column] is not None:
                yield (row[column],)
    except ConfigError:
        raise
    except Exception as error:  # its rows may come from any source, through the user's own code
        raise SourceError(f"text: the Dataset cannot be read ({oneline(error)}): try list(dataset)") from error
