"""Under which licence a model stands, as its card says; never guessed."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]  # huggingface_hub's own reader of cards
from huggingface_hub import CardData

# What a card says, beside the licence, that holds for every copy of the model.
_INHERITED = ("language", "license_name", "license_link")
# The metadata of real cards takes some kB, and is read by a slow reader.
_MAX_CHARACTERS = 200_000
_METADATA = re.compile(r"\s*---(?:\r\n|\r|\n)(.*?)(?:\r\n|\r|\n)---[ \t]*(?:\r|\n|$)", re.DOTALL)


class _WithoutAliases(yaml.SafeLoader):  # type: ignore[misc]  # yaml has no types
    """Reads YAML without references, by which some lines stand for billions of values."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.events.AliasEvent):
            raise yaml.YAMLError("a card has no use for references")
        return super().compose_node(parent, index)


def named_license(card_data: Any) -> str | None:
    """The licence in a card's metadata, by the Hub's name for it: "apache-2.0", "other"; None where there is none."""
    named = card_data.get("license") if isinstance(card_data, CardData | Mapping) else None
    if isinstance(named, list):
        named = named[0] if len(named) == 1 else None
    return named if isinstance(named, str) and named else None


def license_of_folder(folder: Path) -> str | None:
    """The licence that the card in a folder names; None where there is no card, or one that cannot be read."""
    return named_license(read_card(folder))


def inherited(card_data: Any) -> dict[str, str | list[str]]:
    """What else in a card holds for a copy: languages, and the name and place of a licence unknown to the Hub."""
    values = {name: getattr(card_data, name, None) for name in _INHERITED}
    # A card is free text: YAML takes the language "no" for a truth value.
    kept = {name: value for name, value in values.items() if isinstance(value, str) or _is_texts(value)}
    return {name: value for name, value in kept.items() if value}


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def read_card(folder: Path) -> Any:
    """The metadata of the card in a folder; None where there is no card, or one that cannot be read."""
    card = folder / "README.md"
    if not card.is_file():
        return None
    try:
        with card.open(encoding="utf-8") as stream:
            metadata = _METADATA.match(stream.read(_MAX_CHARACTERS))
        values = yaml.load(metadata[1], _WithoutAliases) if metadata else {}  # noqa: S506  # a SafeLoader
        # Its evaluation results are counted out by huggingface_hub, and are of no use here.
        return CardData(**{name: value for name, value in values.items() if name != "model-index"})
    except Exception:  # noqa: BLE001  # a card is free text, and what stands for YAML in it may be anything
        return None
