"""Find the files of a model that was split into several `.gguf` files, as llama-gguf-split names them."""

import re
from collections.abc import Collection
from pathlib import Path

from qtoolkit.errors import CheckpointError

_PART = re.compile(r"(.+)-(\d{5})-of-(\d{5})(\.gguf)", re.IGNORECASE)


def part_names(name: str) -> tuple[str, ...]:
    """Return the names of all files of the model that a file is a part of; its own name where it is whole.

    Example:
        >>> part_names("a-00002-of-00002.gguf")
        ('a-00001-of-00002.gguf', 'a-00002-of-00002.gguf')
    """
    found = _PART.fullmatch(name)
    count = int(found[3]) if found else 0
    if found is None or not 1 <= int(found[2]) <= count:
        return (name,)
    return tuple(f"{found[1]}-{number:05d}-of-{count:05d}{found[4]}" for number in range(1, count + 1))


def refuse_missing(file: str, names: Collection[str]) -> tuple[str, ...]:
    """Return the names of all parts of a model.

    Args:
        file: the name of one part.
        names: of the files that there are.

    Raises:
        CheckpointError: one is missing.
    """
    parts = part_names(file)
    missing = [part for part in parts if part not in names]
    if missing:
        raise CheckpointError(
            f"{file} is one of {len(parts)} files of a model, and {missing[0]} is missing"
            f"{f' and {len(missing) - 1} more' * (len(missing) > 1)}: get all of them into one folder"
        )
    return parts


def parts_of(file: Path) -> tuple[Path, ...]:
    """Return all files of the model that a file is a part of, the first one first; the file alone where it is whole.

    Raises:
        CheckpointError: one is missing.
    """
    if len(part_names(file.name)) == 1:
        return (file,)
    names = refuse_missing(file.name, {other.name for other in file.parent.iterdir()})
    return tuple(file.with_name(name) for name in names)
