"""Records as values that can be compared: without what belongs to one run, tables for lists, and sentences apart."""

import json
import math
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

# Stands for a sentence among the values: there is one, and it is told apart.
SENTENCE = "~"
# What a run or a machine makes of these says nothing of what is written.
_OF_THE_RUN: dict[str, Any] = {
    "seconds": 0.0,
    "peak": None,
    "speed": None,
    "path": None,
    "versions": {},
    "hardware": (),
    "resumed": 0,
}
_CLASS = ("record", "schema_version")
# What sentences tell of a run: the sensitivity of layers in a note, the whole job on a card.
_TOOK = re.compile(r"(?<=measured in )[\d.]+ \w+|(?<=It took )[\d.]+ \w+, and [\d.]+ \w+(?= of main memory)")
# How a config is written in a call.
_CALL = re.compile(r"[A-Za-z]\w*\(.*\)")


@dataclass
class Sentences:
    """Sentences by the field that they stand in, each once.

    Attributes:
        root: the folder of the run, which sentences may name.
        found: field -> sentences.
    """

    root: Path
    found: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))

    def take(self, value: Any, where: str) -> Any:
        """JSON-ready values with `SENTENCE` in the place of each text with a blank in it, which is kept.

        Args:
            value: of `to_dict()`.
            where: the field, "Plan.notes".
        """
        if isinstance(value, Mapping) and "record" in value:
            inner = {key: self.take(item, f"{where}.{key}") for key, item in value.items() if key not in _CLASS}
            return {f"{value['record']} {value['schema_version']}": inner}
        if isinstance(value, Mapping):
            return {self._word(key, where): self.take(item, f"{where}.{_field(key)}") for key, item in value.items()}
        if isinstance(value, list | tuple):
            return _as_table([self.take(item, where) for item in value])
        return self._word(value, where) if isinstance(value, str) else value

    def _word(self, text: str, where: str) -> str:
        text = self.without_run(text)
        if not re.search(r"\s", text) or _CALL.fullmatch(text):
            return text
        self.found[where].add(text)
        return SENTENCE

    def without_run(self, text: str) -> str:
        """A text that names no folder and no time of this run."""
        return _TOOK.sub("some", text.replace(str(self.root), "ROOT"))

    def to_dict(self) -> dict[str, list[str]]:
        """All of them in order."""
        return {where: sorted(texts) for where, texts in sorted(self.found.items())}


def without_run(record: Any) -> Any:
    """A record with the times, peaks, versions and folders of this run and machine taken out."""
    changes = {}
    for each in fields(record):
        value = getattr(record, each.name)
        if each.name in _OF_THE_RUN and not (each.name == "seconds" and isinstance(value, tuple)):
            changes[each.name] = _OF_THE_RUN[each.name]
        elif is_dataclass(value):
            changes[each.name] = without_run(value)
        elif isinstance(value, tuple) and value and is_dataclass(value[0]):
            changes[each.name] = tuple(map(without_run, value))
    return replace(record, **changes)


def dumped(values: Any) -> str:
    """JSON in which whatever fits a line stands on one."""
    return "\n".join(_lines(values, "")) + "\n"


def differences(old: Any, new: Any, where: str = "", *, tolerance: float = 0.0) -> Iterator[str]:
    """Each place where two of the stored values differ, with both.

    Args:
        tolerance: how far two floats may lie apart, as a part of the larger one.
    """
    if _is_table(old) and _is_table(new) and len(old["lines"]) == len(new["lines"]):
        yield from differences(_by_name(old), _by_name(new), where, tolerance=tolerance)
    elif isinstance(old, dict) and isinstance(new, dict):
        for key in dict.fromkeys([*old, *new]):
            place = f"{where} > {key}" if where else str(key)
            if key not in old or key not in new:
                yield f"{place}: {'new' if key in new else 'missing'}"
            else:
                yield from differences(old[key], new[key], place, tolerance=tolerance)
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for index, pair in enumerate(zip(old, new, strict=True)):
            yield from differences(*pair, f"{where}[{index}]", tolerance=tolerance)
    elif isinstance(old, float) and isinstance(new, float) and math.isclose(old, new, rel_tol=tolerance):
        return
    elif old != new or type(old) is not type(new):
        yield f"{where}: {json.dumps(old):.200} became {json.dumps(new):.200}"


def _as_table(items: list[Any]) -> Any:
    """Records of one class as a table: their fields once, and a line of values each."""
    if len(items) < 2 or not all(isinstance(item, dict) and item.keys() == items[0].keys() for item in items):
        return items
    name = next(iter(items[0]))
    return {name: list(items[0][name]), "lines": [list(item[name].values()) for item in items]}


def _is_table(values: Any) -> bool:
    return isinstance(values, dict) and len(values) == 2 and isinstance(values.get("lines"), list)


def _by_name(table: dict[str, Any]) -> dict[str, Any]:
    """A table with its lines as dicts, by their number and their first value."""
    names = next(iter(table.values()))
    lines = {f"{number} {line[0]}": dict(zip(names, line, strict=True)) for number, line in enumerate(table["lines"])}
    return {**table, "lines": lines}


def _field(key: str) -> str:
    """Part of a field's name; a key that is a name of its own (a module, a file, a reason) counts for all such."""
    return key if key.isidentifier() else "*"


def _lines(values: Any, indent: str) -> Iterator[str]:
    whole = json.dumps(values, ensure_ascii=False)
    if len(indent) + len(whole) <= 240 or not isinstance(values, dict | list):
        yield indent + whole
        return
    opening, closing = "{}" if isinstance(values, dict) else "[]"
    yield indent + opening
    items = list(values.items()) if isinstance(values, dict) else [(None, item) for item in values]
    for index, (key, item) in enumerate(items):
        first, *rest = _lines(item, indent + " ")
        if key is not None:
            first = f"{indent} {json.dumps(key, ensure_ascii=False)}: {first.lstrip()}"
        lines = [first, *rest]
        lines[-1] += "," if index + 1 < len(items) else ""
        yield from lines
    yield indent + closing
