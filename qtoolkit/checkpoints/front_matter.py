"""What stands in the YAML block that a model's card begins with; any text may stand there."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

# Cards that list hundreds of figures have some 200 kB of it; 500 kB are read in less than two seconds.
_MOST_BYTES = 500_000
_BOUNDARY = "---"
_INT = "tag:yaml.org,2002:int"
_LONGEST_INT = 100


def read_front_matter(file: Path) -> dict[str, Any]:
    """The values of a card's YAML block, in bounded time and memory; none where there is none that can be read.

    Args:
        file: the card, "README.md".
    """
    # A pipe of that name would be waited for without end.
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
    """The lines between the first two boundaries; nothing where a text does not begin with one, or has no other."""
    lines = text.lstrip("\ufeff \t\r\n").splitlines()
    if not lines or lines[0].rstrip() != _BOUNDARY:
        return ""
    ends = (number for number, line in enumerate(lines[1:], 1) if line.rstrip() == _BOUNDARY)
    return "\n".join(lines[1 : next(ends, 1)])


def _parse(text: str) -> Any:
    """The values of a YAML text without anchors: a few lines that repeat one another would become billions of values.

    Raises:
        yaml.YAMLError: it is none, or has an anchor that is used.
    """
    loader = yaml.SafeLoader(text)
    try:
        loader.compose_node = _without_aliases(loader, loader.compose_node)
        # 1:1:1:... is an integer to the base 60; a long one takes minutes.
        loader.yaml_constructors = {**loader.yaml_constructors, _INT: _short_int}
        return loader.get_single_data()
    finally:
        loader.dispose()


def _without_aliases(loader: Any, compose_node: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    def compose(parent: Any, index: Any) -> Any:
        if loader.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("an alias")
        return compose_node(parent, index)

    return compose


def _short_int(loader: Any, node: Any) -> Any:
    if len(node.value) > _LONGEST_INT:
        raise yaml.YAMLError("a long number")
    return loader.construct_yaml_int(node)
