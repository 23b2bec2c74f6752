"""An output is never where its own source is."""

import os
from pathlib import Path
from typing import Any

from qtoolkit.errors import ConfigError, OutputExistsError
from qtoolkit.hub.cache import repo_folder
from qtoolkit.hub.repository import parse_name
from qtoolkit.partial import partial_of

_REPO_FOLDERS = ("models--", "datasets--", "spaces--")


def refuse_own_source(model: Any, output: Path) -> None:
    """Refuse an output that is the model's own source, holds it or lies in it, also where links lead to one of them.

    Args:
        model: a Hub id, a folder, a file, or a loaded model, which may know the folder that it came from.
        output: the folder that would be made, or replaced.

    Raises:
        OutputExistsError: they are not apart; the message names both.
    """
    name = os.fspath(model) if isinstance(model, str | os.PathLike) else getattr(model, "name_or_path", None)
    if not name or not isinstance(name, str):
        return
    for source in _places(name):
        for place in (output, partial_of(output)):
            found = _relation(Path(os.path.realpath(place)), source)
            if found:
                raise OutputExistsError(
                    f"{output} {found} the source {source}, which is never written to: name another output"
                )


def refuse_hub_cache(output: Path) -> None:
    """Refuse an output in what the Hub's cache keeps of a repository, where it would pass for the repository's own.

    Raises:
        OutputExistsError: it lies there, also where links lead to it.
    """
    real = Path(os.path.realpath(output))
    for folder in (real, *real.parents):
        if folder.name.startswith(_REPO_FOLDERS) and any((folder / name).is_dir() for name in ("blobs", "snapshots")):
            raise OutputExistsError(
                f"{output} lies in the Hub's cache ({folder}), whose files are taken for those of the Hub: "
                "name another output"
            )


def _places(name: str) -> list[Path]:
    """Where a model lies: its folder or file, what that and the links in it lead to; otherwise its Hub cache."""
    path = Path(os.path.expanduser(name))  # noqa: PTH111  # Path's own raises on a name that belongs to nobody
    if os.path.exists(path):  # noqa: PTH110  # as above, on one that is too long
        found = [Path(os.path.realpath(path.parent), path.name), Path(os.path.realpath(path))]
        links = [entry for entry in path.iterdir() if entry.is_symlink()] if path.is_dir() else []
        return [*found, *(Path(os.path.realpath(link)) for link in links)]
    try:
        cache = repo_folder(parse_name(name, None)[0])
    except ConfigError:
        return []  # whoever opens it says what is wrong with the name
    return [Path(os.path.realpath(cache))] if os.path.isdir(cache) else []  # noqa: PTH112


def _relation(output: Path, source: Path) -> str:
    """What an output is to a source, in words; empty where they are apart."""
    if _same(output, source):
        return "is"
    if any(_same(output, folder) for folder in source.parents):
        return "holds"
    return "lies in" if any(_same(folder, source) for folder in output.parents) else ""


def _same(output: Path, source: Path) -> bool:
    """Whether two paths lead to one folder; on some file systems, names that differ in upper and lower case do."""
    try:
        return output == source or output.samefile(source)
    except OSError:
        return False
