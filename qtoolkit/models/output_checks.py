"""Refuse outputs that would overwrite the model that they are made from, or lie in the Hub's cache."""

import os
from pathlib import Path
from typing import Any

from qtoolkit.errors import ConfigError, OutputExistsError
from qtoolkit.hub.cache import repo_folder
from qtoolkit.hub.repository import parse_name
from qtoolkit.partial import partial_of

_REPO_FOLDERS = ("models--", "datasets--", "spaces--")


def refuse_own_source(model: Any, output: Path) -> None:
    """Refuse an output that is the model's own source, holds it or lies in it; links are followed.

    Args:
        model: a Hub id, a folder, a file, or a loaded model, which may know the folder that it came from.
        output: the folder that would be made, or replaced.

    Raises:
        OutputExistsError: one is the other, or holds it; the message names both.
    """
    name = os.fspath(model) if isinstance(model, str | os.PathLike) else getattr(model, "name_or_path", None)
    if not name or not isinstance(name, str):
        return
    for source in _source_paths(name):
        for folder in (output, partial_of(output)):
            relation = _relation(Path(os.path.realpath(folder)), source)
            if relation:
                raise OutputExistsError(
                    f"{output} {relation} the source {source}, which is never written to: name another output"
                )


def refuse_hub_cache(output: Path) -> None:
    """Refuse an output in a repository's folder of the Hub's cache, whose files are taken for those of the Hub.

    Raises:
        OutputExistsError: it lies there; links are followed.
    """
    real = Path(os.path.realpath(output))
    for folder in (real, *real.parents):
        if folder.name.startswith(_REPO_FOLDERS) and any((folder / name).is_dir() for name in ("blobs", "snapshots")):
            raise OutputExistsError(
                f"{output} lies in the Hub's cache ({folder}), whose files are taken for those of the Hub: "
                "name another output"
            )


def _source_paths(name: str) -> list[Path]:
    """Return all real paths of a model: its folder or file and the targets of links in it; else its Hub cache."""
    path = Path(os.path.expanduser(name))  # noqa: PTH111  # Path's own raises on a name that belongs to nobody
    if os.path.exists(path):  # noqa: PTH110  # as above, on one that is too long
        links = [entry for entry in path.iterdir() if entry.is_symlink()] if path.is_dir() else []
        own = Path(os.path.realpath(path.parent), path.name)
        return [own, *(Path(os.path.realpath(entry)) for entry in (path, *links))]
    try:
        cache = repo_folder(parse_name(name, None)[0])
    except ConfigError:
        return []  # opening the model says what is wrong with the name
    return [Path(os.path.realpath(cache))] if os.path.isdir(cache) else []  # noqa: PTH112


def _relation(output: Path, source: Path) -> str:
    """Say whether an output is a source, holds it or lies in it; empty where none of these is so."""
    if _same(output, source):
        return "is"
    if any(_same(output, folder) for folder in source.parents):
        return "holds"
    return "lies in" if any(_same(folder, source) for folder in output.parents) else ""


def _same(output: Path, source: Path) -> bool:
    """Check whether two paths are one folder, as names that differ in case are on some file systems."""
    try:
        return output == source or output.samefile(source)
    except OSError:
        return False
