"""Read the YAML block that a model's card begins with; the Hub lets anybody write any text there."""

from pathlib import Path
from typing import Any

import yaml

# Blocks with hundreds of figures have some 200 kB; 500 kB are read in less than two seconds.
_MOST_BYTES = 500_000
_BOUNDARY = "---"
_LONGEST_INT = 100


def read_front_matter(file: Path) -> dict[str, Any]:
    """Return the values of a card's YAML block, in bounded time and memory.

    Args:
        file: the card, "README.md".

    Returns:
        The values by name; empty where there is no such block, or one that cannot be read.
    """
    # Opening a named pipe would wait for ever.
    if not file.is_file():
        return {}
    try:
        with file.open("rb") as stream:
            data = stream.read(_MOST_BYTES)
        values = _parse(_block(data.decode(errors="replace")))
    except (OSError, ValueError, RecursionError, OverflowError, yaml.YAMLError):
        return {}
    return values if isinstance(values, dict) and all(isinstance(key, str) for key in values) else {}


def _block(text: str) -> str:
    """Return the lines between the first two boundaries; "" where a text does not begin with one, or has no second."""
    lines = text.lstrip("\ufeff \t\r\n").splitlines()
    if not lines or lines[0].rstrip() != _BOUNDARY:
        return ""
    ends = (number for number, line in enumerate(lines[1:], 1) if line.rstrip() == _BOUNDARY)
    return "\n".join(lines[1 : next(ends, 1)])


def _parse(text: str) -> Any:
    """Parse a YAML text without aliases: a few lines that refer to one another would become billions of values.

    Raises:
        yaml.YAMLError: it is not valid, or has an alias.
    """
    return yaml.load(text, Loader=_Loader)  # noqa: S506  # a SafeLoader


class _Loader(yaml.SafeLoader):  # type: ignore[misc]  # yaml has no types
    """Load what `yaml.SafeLoader` does, except aliases and long integers."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Compose the next node; raises YAMLError at an alias."""
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("an alias")
        return super().compose_node(parent, index)

    def short_int(self, node: Any) -> Any:
        """Construct an integer: 1:1:1:... is one to the base 60, and a long one takes minutes."""
        if len(node.value) > _LONGEST_INT:
            raise yaml.YAMLError("a long number")
        return self.construct_yaml_int(node)


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.short_int)
