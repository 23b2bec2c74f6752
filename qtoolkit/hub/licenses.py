"""Under which licence a model stands, as its card says; never guessed."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import CardData, ModelCardData

from qtoolkit.checkpoints.front_matter import read_front_matter
from qtoolkit.checkpoints.hub_names import BASE_MODEL_RELATIONS, is_hub_id

# What a card says, beside the licence, that holds for every copy of the model.
_INHERITED = ("language", "license_name", "license_link")


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


def ancestry(card_data: Any) -> dict[str, str | list[str]]:
    """What a card says of the models that its own was made from; nothing where a name is none on the Hub."""
    base, relation = getattr(card_data, "base_model", None), getattr(card_data, "base_model_relation", None)
    named = [base] if isinstance(base, str) else base
    if not _is_texts(named) or not named or not all(map(is_hub_id, named)):
        return {}
    return {"base_model": base} | ({"base_model_relation": relation} if relation in BASE_MODEL_RELATIONS else {})


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def read_card(folder: Path) -> Any:
    """The metadata of the card in a folder; None where there is no card, or one that cannot be read."""
    values = read_front_matter(folder / "README.md")
    # Figures are asked for by nobody here, and building their records is slow.
    values.pop("model-index", None)
    try:
        return ModelCardData(**values, ignore_metadata_errors=True) if values else None
    except Exception:  # noqa: BLE001  # a card is free text, and what stands for YAML in it may be anything
        return None
