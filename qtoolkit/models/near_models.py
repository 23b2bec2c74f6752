"""Name the models that lie near a mistyped name: in its folder, and in the local Hub cache."""

import os
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path

from qtoolkit.hub.cache import cached_names

_MOST = 3


def missing_folder(name: str) -> str:
    """Say that a name is no folder here, and what lies near: the beginning of a message; "" for a likely Hub id.

    A name of one word is a folder more often than one of the few models of the Hub without an owner.

    Example: "there is no folder 'tinny' here; near: tiny".
    """
    folder, _, last = name.rpartition("/")
    near = [os.path.join(folder, one) for one in _near(last, _models_in(folder))]  # noqa: PTH118
    near += [one for one in _near(name, cached_names()) if one not in near]
    if folder and not near and not Path(folder).is_dir():
        return ""
    return f"there is no folder {name!r} here" + (f"; near: {', '.join(near[:_MOST])}" if near else "")


def _near(name: str, known: Iterable[str]) -> list[str]:
    letters = {one.lower(): one for one in known}
    return [letters[near] for near in get_close_matches(name.lower(), letters, n=_MOST, cutoff=0.7)]


def _models_in(folder: str) -> list[str]:
    """Return the names of the models in a folder: folders with a config, and `.gguf` files."""
    try:
        with os.scandir(folder or ".") as entries:
            return sorted(
                entry.name
                for entry in entries
                if entry.name.endswith(".gguf") or os.path.isfile(os.path.join(entry.path, "config.json"))  # noqa: PTH113, PTH118
            )
    except (OSError, ValueError):
        return []
