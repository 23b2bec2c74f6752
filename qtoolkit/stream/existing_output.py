"""Inspect what exists at an output path before a job begins, and decide whether the result may replace it."""

import errno
import os
import stat
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from qtoolkit.checkpoints.filenames import ADAPTER_CONFIG, PICKLE_SUFFIXES, RECEIPT_FILE, is_model_file
from qtoolkit.errors import OutputExistsError, printable
from qtoolkit.files import current_folder, home_folder, read_json, shortened
from qtoolkit.partial import MARKER, is_at, is_folder

# Relative path -> size and modification time of an entry; None for a folder.
_Content = Mapping[str, tuple[int, int] | None]


@dataclass(frozen=True)
class ExistingOutput:
    """Identify the folder that existed at an output when the job began; nothing else is ever replaced.

    Attributes:
        state: its device and inode.
        content: its files and folders at that time; an empty folder is only replaced while it is still empty.
    """

    state: os.stat_result
    content: _Content

    def is_at(self, folder: Path) -> bool:
        """Return whether it is the folder at a path, and nothing was added to it or changed in it."""
        return is_at(self.state, folder) and _content_of(folder) == self.content


def find_existing(output: Path, *, overwrite: bool, opened: int | None = None) -> ExistingOutput | None:
    """Return the folder that a result may replace; None if nothing exists there.

    Args:
        output: the path of the result.
        overwrite: whether a model, or an adapter, may be replaced.
        opened: file descriptor of the folder, if it is held open.

    Raises:
        OutputExistsError: something exists that may not be replaced.
        OSError: this user may not move the folder.
    """
    if not os.path.lexists(output):
        return None
    if not is_folder(output):
        raise OutputExistsError(f"{output} is not a folder: name another output")
    state = output.lstat() if opened is None else os.fstat(opened)
    if not any(output.iterdir()):
        _refuse_current(output)
        return ExistingOutput(state, {})
    if not any((output / name).is_file() for name in ("config.json", ADAPTER_CONFIG)):
        raise OutputExistsError(
            f"{shortened(output)} exists: name another output (it holds no model, so it is never replaced)"
        )
    if not overwrite:
        raise OutputExistsError(
            f"{shortened(output)} exists: name another output, or give overwrite=True to replace it"
        )
    _refuse_current(output)
    # Moving a folder to another parent folder writes to the folder itself.
    if not os.access(output, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(output))
    content = _content_of(output)
    _refuse_contents(output, content)
    return ExistingOutput(state, content)


def _refuse_current(output: Path) -> None:
    """Refuse to replace a folder that processes work in: they would lose their current folder.

    Raises:
        OutputExistsError: it is or contains the current folder, or the user's home.
    """
    for folder, what in ((current_folder(), "the current folder"), (home_folder(), "your home")):
        resolved = Path(os.path.realpath(folder))
        if resolved.exists() and any(output.samefile(parent) for parent in (resolved, *resolved.parents)):
            relation = "is" if output.samefile(resolved) else "holds"
            raise OutputExistsError(f"{output} {relation} {what}, which is never replaced: name a folder inside it")


def _refuse_contents(output: Path, content: _Content) -> None:
    """Refuse to replace a folder that contains a mount point, the unfinished work of a job, or what is no model's.

    Raises:
        OutputExistsError: it does; the message names it.
    """
    mounted = _mounted_in(output)
    if mounted:
        raise OutputExistsError(
            f"{output} holds the mount point {mounted}, whose files would go too: unmount it, or name another output"
        )
    begun = next((name for name in content if Path(name).name == MARKER), None)
    if begun is not None:
        raise OutputExistsError(
            f"{(output / begun).parent} holds an unfinished job, which would go with {output}: finish that first, or "
            "name another output"
        )
    if not (output / RECEIPT_FILE).exists() and _is_original(output, content):
        raise OutputExistsError(
            f"{shortened(output)} holds a model in full precision that qtoolkit did not write, which is never "
            "replaced: name another output"
        )
    other = next((name for name in sorted(content) if not is_model_file(name)), None)
    if other is not None:
        raise OutputExistsError(
            f"{shortened(output)} holds {printable(other)}, which is no file of a model and would be gone: move it, or "
            "name another output"
        )


def _is_original(output: Path, content: _Content) -> bool:
    """Check whether a folder holds the weights of a model that is not quantized."""
    has_weights = any(name.endswith((".safetensors", *PICKLE_SUFFIXES)) for name in content)
    config = read_json(output / "config.json")
    return has_weights and bool(config) and "quantization_config" not in config


def _mounted_in(output: Path) -> str:
    """Return a mount point below a folder; empty if there is none, or if the system does not list them."""
    inside = f"{os.path.realpath(output)}{os.sep}"
    with suppress(OSError):
        disks = psutil.disk_partitions(all=True)
        return next((disk.mountpoint for disk in disks if disk.mountpoint.startswith(inside)), "")
    return ""


def _content_of(folder: Path) -> _Content:
    """List a folder and all folders below it; links are not followed."""
    content: dict[str, tuple[int, int] | None] = {}
    for parent, folders, files in os.walk(folder):
        for entry in (Path(parent, name) for name in (*folders, *files)):
            name = os.path.relpath(entry, folder)
            try:
                state = entry.lstat()
            except OSError:  # removed meanwhile, or in a folder that may only be listed
                content[name] = (0, 0)
            else:
                content[name] = None if stat.S_ISDIR(state.st_mode) else (state.st_size, state.st_mtime_ns)
    return content
