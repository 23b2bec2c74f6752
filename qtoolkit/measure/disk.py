"""Measure bytes on disk: the size of weight files, and free space."""

import shutil
from pathlib import Path

WEIGHT_SUFFIXES = (".safetensors", ".gguf")


def disk_size(folder: Path) -> int:
    """Return the bytes of a model's weight files: `*.safetensors` and `*.gguf` directly in its folder.

    Links are followed (the Hub's cache consists of them), and a file with two names counts once.

    Args:
        folder: the model's folder, or a single weight file.

    Raises:
        FileNotFoundError: the folder does not exist, or a link in it is broken.
    """
    entries = [folder] if folder.is_file() else list(folder.iterdir())
    weight_files = {entry.resolve() for entry in entries if entry.suffix in WEIGHT_SUFFIXES}
    return sum(file.stat().st_size for file in weight_files)


def free_disk(folder: Path) -> int:
    """Return the bytes that this user can still write to the disk of a folder, which need not exist yet."""
    return shutil.disk_usage(nearest_folder(folder)).free


def same_disk(one: Path, other: Path) -> bool:
    """Check whether two folders, which need not exist yet, are on the same file system."""
    return nearest_folder(one).stat().st_dev == nearest_folder(other).stat().st_dev


def nearest_folder(path: Path) -> Path:
    """Return the path if it is a folder, otherwise its nearest parent that is one."""
    return next(folder for folder in (path, *path.parents) if folder.is_dir())
