"""Choose what a table's rows are by the names of their columns, and read each as one document's text."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from qtoolkit.errors import ConfigError
from qtoolkit.texts.chat_rows import TURNS, messages_of, more_columns, turns_of, written_chat

# Columns with a conversation.
_CHATS = ("messages", "conversations", "conversation")
# Names of columns in a message: so many, each so long. A file whose first line is no header has its text there.
_SHOWN, _LONGEST = 12, 24


@dataclass(frozen=True)
class RowKind:
    """Say which columns of a row are read, and how.

    Attributes:
        name: for messages and notes: "messages", "instruction and output".
        needed: columns that each row must have.
        wanted: columns that a row may have beside them.
        is_text: whether the column is a text; otherwise the row is a chat.
    """

    name: str
    needed: tuple[str, ...]
    wanted: tuple[str, ...] = ()
    is_text: bool = False


def choose_kind(columns: Sequence[str], texts: Iterable[str], column: str | None, what: str) -> RowKind:
    """Choose what the rows of a table are: the first of these whose columns it has.

    The column `text`; a chat under `messages`, `conversations` or `conversation`; a question and its answer, which
    become a chat; the column `content`; the only column with texts.

    Args:
        columns: names of all columns.
        texts: names of those whose values are texts; of those that may be, where that is not known.
        column: the one that the user chose; None to choose one.
        what: a name for the table, for the message.

    Raises:
        ConfigError: there is no such column, or several.
    """
    texts = list(texts)
    more = tuple(more_columns(columns))
    if column is not None:
        if column not in columns:
            raise ConfigError(f"{what} has no column {column!r}: it has {names_of(columns)}")
        # Its values tell whether it is a chat.
        return RowKind(column, (column,), tuple(name for name in more if name != column), is_text=column in texts)
    if {"role", "content"} <= set(columns) or {"from", "value"} <= set(columns):
        raise ConfigError(f"{what} is one message, not a conversation: give each conversation as a list of its own")
    named = [
        *(RowKind(name, (name,), is_text=True) for name in ("text",) if name in texts),
        *(RowKind(name, (name,), more) for name in _CHATS if name in columns),
        *_turns(columns, more),
        *(RowKind(name, (name,), is_text=True) for name in ("content",) if name in texts),
    ]
    if not named and len(texts) != 1:
        count = f"{len(texts)} columns" if texts else "no column"
        raise ConfigError(
            f"{what} has {count} of texts ({names_of(columns)}): name the one to use text, or calibrate with "
            "calibration_column="
        )
    return named[0] if named else RowKind(texts[0], (texts[0],), is_text=True)


def _turns(columns: Sequence[str], more: tuple[str, ...]) -> list[RowKind]:
    """Return a kind for each question and its answer that a table has."""
    pairs = [(question, answer) for question, answers in TURNS.items() for answer in answers]
    return [
        RowKind(f"{question} and {answer}", (question, answer), more)
        for question, answer in pairs
        if question in columns and answer in columns
    ]


def names_of(columns: Sequence[str]) -> str:
    """List the names of columns for a message, each and all of them cut short."""
    shown = ", ".join(str(name)[:_LONGEST] for name in columns[:_SHOWN])
    return f"{shown}, ..." if len(columns) > _SHOWN else shown or "none"


@dataclass
class RowReader:
    """Read rows as texts: all as the first, whose kind is chosen if it is not given.

    Attributes:
        what: a name for their source, for messages.
        column: the one that the user chose; None to choose one.
        tokenizer: its chat template writes chats; None to check them alone.
        notes: list to which a note on chats is appended.
        kind: what the rows are; None until the first one is read.
    """

    what: str
    column: str | None = None
    tokenizer: Any = None
    notes: list[str] = field(default_factory=list)
    kind: RowKind | None = None

    def __call__(self, where: str, row: Any) -> str | None:
        """Return the text of a row; None if it has none.

        Raises:
            ConfigError: it is of another kind than the rows before it, or cannot be read.
        """
        if self.kind is None:
            self.kind = self._first_kind(where, row)
        if not self.kind.needed:
            return self._bare(where, row, self.kind)
        if not isinstance(row, Mapping):
            raise ConfigError(
                f"{where} is {type(row).__name__}, and those before it have {self.kind.name}: give one kind"
            )
        missing = [name for name in self.kind.needed if name not in row]
        if missing:
            raise ConfigError(
                f"{where} has no {missing[0]}, which those before it have; it has {names_of(list(row))}: give one kind"
            )
        return self._text(where, row, self.kind)

    def _first_kind(self, where: str, row: Any) -> RowKind:
        if isinstance(row, Mapping):
            texts = [name for name, value in row.items() if isinstance(value, str)]
            return choose_kind(list(row), texts, self.column, where)
        if self.column is not None:
            raise ConfigError(f"{where} has no columns: leave out calibration_column={self.column!r}")
        return RowKind("a text" if isinstance(row, str) else "messages", (), is_text=isinstance(row, str))

    def _bare(self, where: str, row: Any, kind: RowKind) -> str | None:
        """Read a row that is a text or a list of messages itself."""
        if isinstance(row, Mapping) or kind.is_text != isinstance(row, str):
            raise ConfigError(f"{where} is {type(row).__name__}, and those before it are {kind.name}: give one kind")
        return row if kind.is_text else self._chat(where, messages_of(where, row, {}), None)

    def _text(self, where: str, row: Mapping[str, Any], kind: RowKind) -> str | None:
        first = row[kind.needed[0]]
        if kind.is_text and (first is None or isinstance(first, str)):
            return None if first is None else clean(first)
        if kind.is_text:
            raise ConfigError(f"{where} has no text under {kind.name}, but {type(first).__name__}: give one kind")
        has_turns = len(kind.needed) == 2
        messages = turns_of(where, row, *kind.needed) if has_turns else messages_of(where, first, row)
        return self._chat(where, messages, row.get("tools"))

    def _chat(self, where: str, messages: list[dict[str, Any]], tools: Any) -> str:
        assert self.kind is not None
        if self.tokenizer is None:
            return "".join(message["content"] for message in messages)
        note = f"{self.what}: {self.kind.name} written by the tokenizer's chat template"
        if note not in self.notes:
            self.notes.append(note)
        return clean(written_chat(where, messages, tools, self.tokenizer))


def clean(text: str) -> str:
    """Replace halves of surrogate pairs, which JSON may hold and no tokenizer reads."""
    return text.encode(errors="replace").decode()
