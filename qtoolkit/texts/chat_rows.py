"""Write conversations as a tokenizer's chat template does, from rows of the forms that people have them in."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from qtoolkit.errors import ConfigError, oneline

# Column with a question -> columns one of which holds its answer.
TURNS = {
    "prompt": ("completion", "response", "output"),
    "instruction": ("output", "response", "completion"),
    "question": ("answer", "response"),
    "query": ("response", "answer"),
    "problem": ("solution", "answer"),
}
# Columns that belong to a question, and columns with the system's message.
_CONTEXT = ("input", "context")
_SYSTEM = ("system", "system_prompt")
# ShareGPT's names of those who speak -> those that chat templates know.
_ROLES = {"human": "user", "gpt": "assistant", "chatgpt": "assistant", "bot": "assistant", "model": "assistant"}
_ROLES |= {"function_call": "assistant", "observation": "tool"}
_LIKE = '{"role": "user", "content": "..."} or {"from": "human", "value": "..."}'

Message = dict[str, Any]


def more_columns(columns: Sequence[str]) -> list[str]:
    """Return the columns of a table that belong to a conversation beside its messages, or its question and answer."""
    return [name for name in columns if name in (*_CONTEXT, *_SYSTEM, "tools")]


def messages_of(where: str, value: Any, row: Mapping[str, Any]) -> list[Message]:
    """Return a conversation as messages with role and content.

    Args:
        where: what to call the row in messages.
        value: a list of messages of the form `_LIKE`, or that list as JSON; a content may be a list of parts.
        row: the row that it stands in, for its system's message.

    Raises:
        ConfigError: it is no such list, is empty, or has a part that is no text.
    """
    value = _decoded(value)
    if not isinstance(value, list | tuple):
        raise ConfigError(f"{where} has no list of messages, but {type(value).__name__}: give messages such as {_LIKE}")
    if not value:
        raise ConfigError(f"{where} has no messages: remove it")
    messages = [_message(where, number, one) for number, one in enumerate(value, start=1)]
    return messages if messages[0]["role"] == "system" else [*_system(row), *messages]


def turns_of(where: str, row: Mapping[str, Any], question: str, answer: str) -> list[Message]:
    """Return a question and its answer as a conversation, with what the row says of the system and the context.

    Example: instruction "Add", input "1 and 2" and output "3": the user says "Add" and on a new line "1 and 2", the
    assistant "3".

    Args:
        where: what to call the row in messages.
        row: the row.
        question: its column with the question: a text, or a list of messages.
        answer: its column with the answer, likewise.

    Raises:
        ConfigError: one of them is neither.
    """
    if isinstance(row[question], list | tuple) and isinstance(row[answer], list | tuple):
        return messages_of(where, [*row[question], *row[answer]], row)
    for name in (question, answer):
        if not isinstance(row[name], str):
            raise ConfigError(f"{where} has no text under {name}, but {type(row[name]).__name__}: remove the row")
    if not row[question].strip():
        raise ConfigError(f"{where} has an empty text under {question}: remove the row")
    context = [row[name] for name in _CONTEXT if isinstance(row.get(name), str) and row[name].strip()]
    user = {"role": "user", "content": "\n".join([row[question], *context])}
    return [*_system(row), user, {"role": "assistant", "content": row[answer]}]


def _system(row: Mapping[str, Any]) -> Iterator[Message]:
    for name in _SYSTEM:
        if isinstance(row.get(name), str) and row[name].strip():
            yield {"role": "system", "content": row[name]}
            return


def _message(where: str, number: int, given: Any) -> Message:
    """Return one message with role and content as text; what else it says, such as its calls of tools, stays."""
    if not isinstance(given, Mapping):
        raise ConfigError(f"{where}: message {number} is no object, but {type(given).__name__}: write {_LIKE}")
    # Tables give the keys that other messages have as None.
    message = {key: value for key, value in given.items() if value is not None}
    role = message.pop("role", None) or message.pop("from", None)
    content = message.pop("content", None)
    if content is None:
        content = message.pop("value", "" if message.get("tool_calls") else None)
    if not isinstance(role, str) or content is None:
        raise ConfigError(
            f"{where}: message {number} has no {'content' if isinstance(role, str) else 'role'}: write {_LIKE}"
        )
    if isinstance(content, list | tuple):
        content = "".join(_part(where, number, part) for part in content)
    if not isinstance(content, str):
        kind = type(content).__name__
        raise ConfigError(f"{where}: message {number} has no text as its content, but {kind}: write {_LIKE}")
    return {"role": _ROLES.get(role, role), "content": content, **message}


def _part(where: str, number: int, part: Any) -> str:
    """Return the text of one part of a content, {"type": "text", "text": "..."}."""
    text = part.get("text") if isinstance(part, Mapping) else part
    if not isinstance(text, str):
        kind = str(part.get("type")) if isinstance(part, Mapping) else type(part).__name__
        raise ConfigError(f"{where}: message {number} has a part that is no text ({kind:.20}): remove the row")
    return text


def _decoded(value: Any) -> Any:
    """Return what a column without lists, such as one of a .csv, holds as JSON; any other value as it is."""
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        with suppress(ValueError, RecursionError):
            return json.loads(value)
    return value


def refuse_without_template(where: str, tokenizer: Any) -> None:
    """Refuse a conversation for a tokenizer that has no chat template.

    Raises:
        ConfigError: it has none.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise ConfigError(
            f"{where} is a chat, and the tokenizer has no chat template: give tokenizer= with one, or texts"
        )


def written_chat(where: str, messages: list[Message], tools: Any, tokenizer: Any) -> str:
    """Write a conversation as the tokenizer's chat template does.

    Raises:
        ConfigError: there is no template, or it fails.
    """
    refuse_without_template(where, tokenizer)
    try:
        return str(tokenizer.apply_chat_template(messages, tools=_decoded(tools) or None, tokenize=False))
    except Exception as error:  # templates are programs, which raise what they like
        raise ConfigError(
            f"{where}: the tokenizer's chat template cannot write it ({oneline(error)}): correct the row, or remove it"
        ) from error
