"""Read the licence of a model, and what else holds for a copy, from its card; never guess."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import CardData, ModelCardData

from qtoolkit.checkpoints.front_matter import read_front_matter
from qtoolkit.checkpoints.hub_names import BASE_MODEL_RELATIONS, is_hub_id

# Metadata of a card, besides the licence, that hold for every copy of the model.
_INHERITED = ("language", "license_name", "license_link")


def named_license(card_data: Any) -> str | None:
    """Return the licence in a card's metadata, by the Hub's name for it: "apache-2.0", "other"; None without one."""
    named = card_data.get("license") if isinstance(card_data, CardData | Mapping) else None
    if isinstance(named, list):
        named = named[0] if len(named) == 1 else None
    return named if isinstance(named, str) and named else None


def license_of_folder(folder: Path) -> str | None:
    """Return the licence that the card in a folder names; None without a card, or if it cannot be read."""
    return named_license(read_card(folder))


def inherited(card_data: Any) -> dict[str, str | list[str]]:
    """Return further metadata that hold for a copy: languages, and name and address of a licence unknown to the Hub."""
    values = {name: getattr(card_data, name, None) for name in _INHERITED}
    # A card is free text: YAML reads the language "no" as a boolean.
    return {name: value for name, value in values.items() if value and (isinstance(value, str) or _is_texts(value))}


def ancestry(card_data: Any) -> dict[str, str | list[str]]:
    """Return what a card says of the models that its own was made from; nothing if a name is no Hub id."""
    base = getattr(card_data, "base_model", None)
    relation = getattr(card_data, "base_model_relation", None)
    named = [base] if isinstance(base, str) else base
    if not _is_texts(named) or not named or not all(map(is_hub_id, named)):
        return {}
    return {"base_model": base} | ({"base_model_relation": relation} if relation in BASE_MODEL_RELATIONS else {})


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def read_card(folder: Path) -> Any:
    """Read the metadata of the card in a folder; None without a card, or if it cannot be read."""
    values = read_front_matter(folder / "README.md")
    # Evaluation results are not needed here, and building their records is slow.
    values.pop("model-index", None)
    try:
        return ModelCardData(**values, ignore_metadata_errors=True) if values else None
    except Exception:  # noqa: BLE001  # a card is free text, and its YAML may hold anything
        return None
