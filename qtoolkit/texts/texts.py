"""Check and open text of any kind: a name such as "wikitext2", a file, a list, or a Dataset."""

import os
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any

from qtoolkit.checkpoints.hub_names import HUB_TEXTS
from qtoolkit.errors import ConfigError
from qtoolkit.files import path_of
from qtoolkit.optional import is_installed, optional
from qtoolkit.texts.text_datasets import check_dataset, is_dataset, is_stream, read_dataset
from qtoolkit.texts.text_files import KINDS, Documents, check_file, files_of, is_plain, read_file
from qtoolkit.texts.text_rows import RowReader

# Characters that are tokenized at once.
PIECE = 100_000
# Rows of a list that are checked before work starts; the rest is checked when it is read.
_CHECKED = 10_000
# A longer text was hardly meant as a path.
_MAX_NAME = 256


@dataclass(frozen=True)
class Texts:
    """Hold the name of a text, and a function that reads its documents.

    Attributes:
        name: the user's name for the text; never the text itself.
        documents: yields the documents one after the other, each as strings that together are its text.
        is_stream: whether only the beginning is read, since the rest comes over a network or has no end.
        notes: notes for the user, one line each; reading the documents adds to them.
        checks: whether the bytes of a text from the Hub were compared with their hash; reading adds to them.
    """

    name: str
    documents: Callable[[], Documents]
    is_stream: bool = False
    notes: list[str] = field(default_factory=list)
    checks: list[str] = field(default_factory=list)


def is_self(value: Any) -> bool:
    """Check whether a text is "self": the model writes it."""
    return isinstance(value, str) and value == "self"


def is_named(value: Any) -> bool:
    """Check whether a text is called by a name of ours, and is no file: "wikitext2", "c4" or "self"."""
    return is_self(value) or (isinstance(value, str) and value in HUB_TEXTS)


def check_texts(value: Any, option: str, column: str | None = None) -> None:
    """Refuse text that is clearly unusable before any work is done, without a network.

    Args:
        value: "self", "wikitext2", "c4", a file or a folder of files as `check_file` knows them, a list of texts or of
            rows with texts or chats, or a Dataset of the package datasets.
        option: name of the caller's argument, for the message.
        column: the column of its rows to read; None to choose one by its name.

    Raises:
        ConfigError: it is none of those, or clearly holds no text.
        MissingDependencyError: the package that reads it is not installed.
    """
    if column is not None and isinstance(value, str) and is_named(value):
        raise ConfigError(f"{option}: {value!r} has no columns to choose from: leave out {option}_column={column!r}")
    if is_self(value):
        return
    if isinstance(value, str) and value in HUB_TEXTS:
        if not is_installed("datasets"):
            optional("datasets", f"text {value!r}")
    elif isinstance(value, str | os.PathLike):
        path = _path(value)
        if not os.fspath(value) or not os.path.exists(path):  # noqa: PTH110  # Path raises on a name that is too long
            given = os.fspath(value)
            raise ConfigError(f"{option} must be {_allowed()}, got {_shown(given)}{_near(given)}")
        check_file(path, column)
    elif is_dataset(value):
        check_dataset(value, column)
    elif isinstance(value, list | tuple):
        _check_list(value, column)
    else:
        raise ConfigError(f"{option} must be {_allowed()}, got {type(value).__name__}")


def has_columns(value: Any) -> bool:
    """Check whether a text that was checked has columns of which one may be chosen."""
    return not isinstance(value, str) or (value not in HUB_TEXTS and not is_plain(_path(value)))


def open_texts(
    value: Any, *, token: str | None = None, held_out: bool = False, column: str | None = None, tokenizer: Any = None
) -> Texts:
    """Open a text that was checked; it is read later.

    Args:
        value: as for `check_texts`, except "self".
        token: Hub token for "wikitext2" and "c4"; None for the one that huggingface_hub finds.
        held_out: use the split of "wikitext2" and "c4" that nothing is calibrated on.
        column: the column of its rows to read; None to choose one by its name.
        tokenizer: its chat template writes rows that are chats.
    """
    notes: list[str] = []
    if isinstance(value, str) and value in HUB_TEXTS:
        from qtoolkit.hub.dataset_texts import read_hub_text

        text = HUB_TEXTS[value]
        text = replace(text, file=text.held_out) if held_out else text
        checks: list[str] = []
        documents = partial(read_hub_text, value, text, token, notes=notes, checks=checks)
        return Texts(value, documents, text.is_stream, notes, checks)
    if isinstance(value, str | os.PathLike):
        path = _path(value)
        files = partial(_files, path, column, tokenizer, notes)
        return Texts(path.name or str(path.resolve().name), files, notes=notes)
    if is_dataset(value):
        name = type(value).__name__
        reader = RowReader(name, column, tokenizer, notes)
        return Texts(name, partial(read_dataset, value, reader), is_stream(value), notes)
    if isinstance(value[0], str):
        return Texts("1 text" if len(value) == 1 else f"{len(value)} texts", partial(_each, value))
    name = "1 row" if len(value) == 1 else f"{len(value)} rows"
    return Texts(name, partial(_each_row, value, RowReader(name, column, tokenizer, notes)), notes=notes)


def _files(path: Path, column: str | None, tokenizer: Any, notes: list[str]) -> Documents:
    """Read the documents of a file, or of the files of a folder one after the other."""
    files = files_of(path) if path.is_dir() else [path]
    if path.is_dir():
        notes.append(f"{path.name}: files {files[0].name} to {files[-1].name}, {len(files)} of them, in order of names")
    for file in files:
        yield from read_file(file, RowReader(path.name, column, tokenizer, notes))


def _allowed() -> str:
    names = ", ".join(map(repr, (*HUB_TEXTS, "self")))
    return f"{names}, a file that exists ({KINDS}), a folder of them, a list of texts or of chats, or a Dataset"


def _near(name: str) -> str:
    """Return the file that a mistyped name is nearest to, as the end of a message; "" where none is near."""
    place = Path(name)
    try:
        # Without what many files end in, which makes any two of them alike.
        files = {file.stem: file.name for file in place.parent.iterdir()}
    except (OSError, ValueError):
        return ""  # no such folder, or no name of one
    found = get_close_matches(place.stem, files, n=1)
    return f": did you mean {files[found[0]]}?" if found else ""


def _shown(name: str) -> str:
    """Quote a name for an error; a long text was not meant as a name, and is not quoted."""
    if len(name) > _MAX_NAME or "\n" in name:
        return f"a text of {len(name):,} characters: put it into a list"
    return repr(name)


def _path(value: "str | os.PathLike[str]") -> Path:
    if not isinstance(value, str) or ("\0" in value and value.startswith("~")):
        path_of(value, "text")
    return Path(os.path.expanduser(value))  # noqa: PTH111  # Path raises on a home that belongs to nobody


def _check_list(value: list[Any] | tuple[Any, ...], column: str | None) -> None:
    if value and not isinstance(value[0], str):
        _check_rows(value, column)
        return
    if column is not None:
        raise ConfigError(f"text: a list of texts has no columns: leave out calibration_column={column!r}")
    for number, text in enumerate(value, start=1):
        if not isinstance(text, str):
            raise ConfigError(f"text: item {number} of the list must be a text, got {type(text).__name__}")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ConfigError(
                f"text: item {number} of the list holds half a character at {error.start} (a lone surrogate): "
                "decode it again with errors='replace'"
            ) from error
    if not any(text.strip() for text in value):
        what = "only empty texts" if value else "an empty list"
        raise ConfigError(f"text: {what}: give texts, a file, or 'self'")


def _check_rows(value: list[Any] | tuple[Any, ...], column: str | None) -> None:
    is_chat = isinstance(value[0], list | tuple) and len(value[0]) > 0 and isinstance(value[0][0], Mapping)
    if not isinstance(value[0], Mapping) and not is_chat:
        raise ConfigError(f"text: item 1 of the list must be a text, got {type(value[0]).__name__}")
    texts = [strings[0] for strings in _each_row(value[:_CHECKED], RowReader("the list", column))]
    if len(value) <= _CHECKED and not any(text.strip() for text in texts):
        raise ConfigError("text: only empty texts: give texts, a file, or 'self'")


def _each_row(rows: Iterable[Any], reader: RowReader) -> Generator[tuple[str], None, None]:
    for number, row in enumerate(rows, start=1):
        text = reader(f"text: item {number} of the list", row)
        if text is not None:
            yield (text,)


def _each(texts: Iterable[str]) -> Documents:
    for text in texts:
        yield (text[start : start + PIECE] for start in range(0, len(text), PIECE))


def cut(strings: Iterable[str]) -> Iterator[str]:
    """Cut one document into pieces of at most `PIECE` characters, at a line break or a blank where there is one."""
    rest = ""
    for string in strings:
        rest += string
        while len(rest) > PIECE:
            end = rest.rfind("\n", 0, PIECE) + 1 or max(rest.rfind(" ", 0, PIECE), 0) or PIECE
            yield rest[:end]
            rest = rest[end:]
    if rest:
        yield rest
