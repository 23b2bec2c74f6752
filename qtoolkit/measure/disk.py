"""Bytes on disk: what weight files take, and what is free."""

import shutil
from pathlib import Path

WEIGHT_SUFFIXES = (".safetensors", ".gguf")


def disk_size(folder: Path) -> int:
    """Bytes of the weight files of a model: `*.safetensors` and `*.gguf` directly in its folder.

    Links are followed (the Hub's cache is made of them), and a file that two names lead to counts once.

    Args:
        folder: the model's folder, or a single weight file.

    Raises:
        FileNotFoundError: there is no such folder, or a link in it leads nowhere.
    """
    entries = [folder] if folder.is_file() else list(folder.iterdir())
    weight_files = {entry.resolve() for entry in entries if entry.suffix in WEIGHT_SUFFIXES}
    return sum(file.stat().st_size for file in weight_files)


def free_disk(folder: Path) -> int:
    """Bytes that this user can still write where `folder` is, or would be: its nearest parent that exists counts."""
    return shutil.disk_usage(_existing(folder)).free


def same_disk(one: Path, other: Path) -> bool:
    """Whether two folders are, or would be, on the same file system."""
    return _existing(one).stat().st_dev == _existing(other).stat().st_dev


def _existing(folder: Path) -> Path:
    return next(place for place in (folder, *folder.parents) if place.exists())
