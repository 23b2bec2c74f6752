"""Read the recipe that a journal was begun with, and refuse another one."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qtoolkit.errors import OutputError
from qtoolkit.stream.sealed import is_sealed, without_seal

# Version of the journal's files; a journal of another version is not resumed.
VERSION = 2
VERSION_KEY = "journal"


def recipe_in(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the recipe in the contents of its file; empty if they are damaged or of another version."""
    if not is_sealed(record) or record.get(VERSION_KEY) != VERSION:
        return {}
    return {key: value for key, value in without_seal(record).items() if key != VERSION_KEY}


def check_recipe(folder: Path, begun: Mapping[str, Any], recipe: Mapping[str, Any], restart: str) -> None:
    """Refuse to resume a job with another recipe than it was started with.

    Raises:
        OutputError: the recipes differ; the message names one difference and what to do.
    """
    for key in dict.fromkeys([*recipe, *begun]):
        if begun.get(key) != recipe.get(key):
            raise OutputError(
                f"{folder.parent} was begun with {_shown(key)} {_shown(begun.get(key))}, and this call has "
                f"{_shown(recipe.get(key))}: call as before to go on, or {restart} to start anew"
            )


def _shown(value: Any) -> str:
    """Return a value of a recipe for a message, shortened: a value from a file may be long."""
    return " ".join(str(value).split())[:60]
