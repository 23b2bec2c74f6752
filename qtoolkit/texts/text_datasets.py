"""Text in a Dataset of the package datasets that somebody has."""

import importlib
import sys
from typing import Any

from qtoolkit.errors import ConfigError, SourceError, oneline
from qtoolkit.texts.text_files import Documents, text_column


def is_dataset(value: Any) -> bool:
    """Whether it is of a class of the package datasets, which is not imported for that."""
    datasets = sys.modules.get("datasets")
    return datasets is not None and isinstance(
        value, datasets.Dataset | datasets.IterableDataset | datasets.DatasetDict | datasets.IterableDatasetDict
    )


def is_stream(dataset: Any) -> bool:
    """Whether its rows come one after the other from anywhere, rather than from this disk or memory."""
    return isinstance(dataset, importlib.import_module("datasets").IterableDataset)


def check_dataset(dataset: Any) -> None:
    """Refuse a Dataset that can be seen to hold no text; no row is read.

    Raises:
        ConfigError: it is a dict of splits, is empty, or has no column of texts.
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
    """The documents of a Dataset: its rows.

    Raises:
        ConfigError: it has no column of texts.
        SourceError: it cannot be read.
    """
    try:
        # A format such as pandas or torch would give something else than texts.
        plain = dataset.with_format(None)
        if plain.features is None:
            plain = plain._resolve_features()  # noqa: SLF001  # as the package itself does where it has to know them
        column = _text_column(plain)
        for row in plain.select_columns(column):
            if row[column] is not None:
                yield (row[column],)
    except ConfigError:
        raise
    except Exception as error:  # it may be read from anywhere, by anybody's code
        raise SourceError(f"text: the Dataset cannot be read ({oneline(error)}): try list(dataset)") from error
