"""What stands at an output before a job begins, and whether the result may take its place."""

import errno
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from qtoolkit.errors import OutputExistsError
from qtoolkit.files import current_folder, home_folder
from qtoolkit.partial import MARKER, is_at, is_folder

_MOUNTS = Path("/proc/self/mountinfo")
_ESCAPED = re.compile(rb"\\(\d{3})")
# What is known of an entry: nothing of a folder, bytes and time of anything else.
_Content = Mapping[str, tuple[int, int] | None]


@dataclass(frozen=True)
class Standing:
    """The folder that stood at an output when the job began; nothing else is ever replaced.

    Attributes:
        state: its device and inode.
        content: what was in it, by path.
    """

    state: os.stat_result
    content: _Content

    @property
    def is_empty(self) -> bool:
        """Return whether it held nothing; it goes only as long as it holds nothing."""
        return not self.content

    def is_at(self, folder: Path) -> bool:
        """Return whether it stands at a path, and nothing was put into it or changed in it."""
        return is_at(self.state, folder) and _content_of(folder) == self.content


def find_standing(output: Path, *, overwrite: bool, opened: int | None = None) -> Standing | None:
    """Return the folder that a result may replace; None where there is nothing.

    Args:
        output: where it may stand.
        overwrite: whether it may be a model.
        opened: the folder, held open.

    Raises:
        OutputExistsError: what stands there may not be replaced.
        OSError: this user may not move it.
    """
    if not os.path.lexists(output):
        return None
    if not is_folder(output):
        raise OutputExistsError(f"{output} is not a folder: name another output")
    state = output.lstat() if opened is None else os.fstat(opened)
    if not any(output.iterdir()):
        _refuse_current(output)
        return Standing(state, {})
    if not (output / "config.json").is_file():
        raise OutputExistsError(f"{output} exists: name another output (it holds no model, so it is never replaced)")
    if not overwrite:
        raise OutputExistsError(f"{output} exists: name another output, or give overwrite=True to replace it")
    _refuse_current(output)
    # A folder that moves to another one is written to itself.
    if not os.access(output, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(output))
    content = _content_of(output)
    _refuse_held(output, content)
    return Standing(state, content)


def _refuse_current(output: Path) -> None:
    """Refuse to replace a folder under those who are in it: for them, it would be gone.

    Raises:
        OutputExistsError: it is or holds the current folder, or the user's home.
    """
    for folder, what in ((current_folder(), "the current folder"), (home_folder(), "your home")):
        place = Path(os.path.realpath(folder))
        if place.exists() and any(output.samefile(one) for one in (place, *place.parents)):
            relation = "is" if output.samefile(place) else "holds"
            raise OutputExistsError(f"{output} {relation} {what}, which is never replaced: name a folder inside it")


def _refuse_held(output: Path, content: _Content) -> None:
    """Refuse to replace a folder that holds more than a model's files: another disk, or a job's unfinished work.

    Raises:
        OutputExistsError: it does; the message names what.
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


def _mounted_in(output: Path) -> str:
    """A mount point below a folder; empty where there is none, or no list of them."""
    inside = os.fsencode(f"{os.path.realpath(output)}{os.sep}")
    try:
        lines = _MOUNTS.read_bytes().splitlines()
    except OSError:  # not Linux
        return ""
    places = (_ESCAPED.sub(lambda found: bytes([int(found[1], 8)]), line.split()[4]) for line in lines)
    return os.fsdecode(next((place for place in places if place.startswith(inside)), b""))


def _content_of(folder: Path) -> _Content:
    """What is in a folder and in those below it; links are not followed."""
    found: dict[str, tuple[int, int] | None] = {}
    for place, folders, files in os.walk(folder):
        for entry in (Path(place, name) for name in (*folders, *files)):
            name = os.path.relpath(entry, folder)
            try:
                state = entry.lstat()
            except OSError:  # gone by now, or in a folder that may be listed and no more
                found[name] = (0, 0)
            else:
                found[name] = None if stat.S_ISDIR(state.st_mode) else (state.st_size, state.st_mtime_ns)
    return found
