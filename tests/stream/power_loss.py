"""A recording of what a process wrote, and every state in which a power failure could have left it.

strace records the calls of the system, since Python's hooks do not see what libraries in Rust write. Of each call that
was not followed by an `fsync` it is open whether it reached the disk: what a file holds may be missing or cut, a name
or a rename whose folder was not synced may be done or undone, each independently of the others.
"""

import itertools
import posixpath
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

CALLS = (
    "open,openat,openat2,creat,write,pwrite64,writev,pwritev,ftruncate,truncate,rename,renameat,renameat2,unlink,"
    "unlinkat,rmdir,mkdir,mkdirat,fsync,fdatasync,sync,syncfs,link,linkat,symlink,symlinkat,sendfile,copy_file_range"
)
_LINE = re.compile(r"(?P<time>[\d.]+) (?P<call>\w+)\((?P<arguments>.*)\) += (?P<result>-?\d+)")
_STRING = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')
_PATH = re.compile(r"<((?:\\x[0-9a-f]{2})*)>")
MAX_PENDING, MAX_DRAWN = 10, 1000
EXCHANGE = "RENAME_EXCHANGE"

State = dict[str, bytes | None]


def record(folder: Path, root: Path, *module: str) -> list["Call"]:
    """Run a module with Python, and return its calls that change or sync something below `root`, in their order.

    Skips the test where calls cannot be recorded.
    """
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("strace is not installed: `apt-get install strace` as root")
    tried = subprocess.run([strace, "-f", "--seccomp-bpf", "true"], capture_output=True, text=True, check=False)
    if tried.returncode:
        pytest.skip(f"this machine does not let strace record calls: {tried.stderr.strip()[-200:]}")
    options = ["-f", "-ff", "--seccomp-bpf", "-ttt", "-y", "-xx", "-s", str(1 << 24), "-e", f"trace={CALLS}"]
    command = [strace, *options, "-o", folder / "log", sys.executable, "-W", "ignore", "-m", *module, root]
    run = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-3000:]
    # A file for each thread.
    lines = [line for file in sorted(folder.glob("log.*")) for line in file.read_text().splitlines()]
    mark = "".join(f"\\x{byte:02x}" for byte in str(root).encode())
    found = [match for line in lines if mark in line and (match := _LINE.match(line))]
    found.sort(key=lambda match: float(match["time"]))
    return [Call(match["call"], match["arguments"]) for match in found if int(match["result"]) >= 0]


@dataclass(frozen=True)
class Call:
    """A call that succeeded."""

    name: str
    arguments: str

    def paths(self) -> list[str]:
        """The paths that it names, each made whole by the folder before it."""
        found: list[str] = []
        folder = ""
        for part in re.findall(r'<(?:\\x[0-9a-f]{2})*>|"(?:\\x[0-9a-f]{2})*"', self.arguments):
            text = _text(part[1:-1]).decode()
            if part[0] == "<":
                folder = text
            else:
                found.append(posixpath.normpath(posixpath.join(folder, text)))
        return found

    def file(self) -> str:
        """The path of the file or folder that its first argument has open."""
        match = _PATH.search(self.arguments)
        assert match is not None
        return _text(match[1]).decode()

    def data(self) -> bytes:
        """What it writes."""
        return b"".join(_text(part) for part in _STRING.findall(self.arguments))


def _text(escaped: str) -> bytes:
    return bytes.fromhex(escaped.replace("\\x", ""))


@dataclass
class Change:
    """A change of names: entries of folders, by the folders' numbers.

    Attributes:
        entries: (folder, name) -> the number that has this name afterwards; None for none.
        waits: folders whose sync makes it last.
    """

    entries: dict[tuple[int, str], int | None]
    waits: set[int]


@dataclass
class Disk:
    """Folders and files by number, as a process sees them, and what of them is on the disk.

    Attributes:
        names: folder -> its entries, for the process.
        data: file -> what it holds, for the process.
        lasting: folder -> entries that are on the disk for sure; later changes may be too.
        synced: file -> what the disk holds of it for sure.
        changes: of names, from the first that may be undone.
    """

    names: dict[int, dict[str, int]] = field(default_factory=lambda: {0: {}})
    data: dict[int, bytes] = field(default_factory=dict)
    lasting: dict[int, dict[str, int]] = field(default_factory=lambda: {0: {}})
    synced: dict[int, bytes] = field(default_factory=dict)
    changes: list[Change] = field(default_factory=list)
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def apply(self, call: Call, root: str) -> bool:
        """Do what a call did; whether anything could be lost that could not before."""
        name = call.name
        if name in {"fsync", "fdatasync"}:
            number = self._find(_below(call.file(), root))
            if number is not None:
                self._sync(number)
            return False
        if name in {"write", "pwrite64"}:
            number = self._find(_below(call.file(), root))
            if number is None:
                return False
            assert name == "write", "what is written elsewhere than at the end is not simulated"
            self.data[number] += call.data()
            return True
        paths = [_below(path, root) for path in call.paths()]
        if name in {"open", "openat", "creat"}:
            return self._open(paths[0], call.arguments)
        if all(path is None for path in paths):
            return False
        if name in {"mkdir", "mkdirat"}:
            self._change({paths[0]: self._new(folder=True)}, [paths[0]])
        elif name in {"unlink", "unlinkat", "rmdir"}:
            self._change({paths[0]: None}, [paths[0]])
        elif name in {"rename", "renameat", "renameat2"}:
            first, second = (self._find(path) for path in paths)
            exchanged = EXCHANGE in call.arguments
            self._change({paths[0]: second if exchanged else None, paths[1]: first}, paths if exchanged else paths[1:])
        else:
            raise AssertionError(f"{name} is not simulated")
        return True

    def settle(self) -> None:
        """Take all for being on the disk."""
        for change in self.changes:
            change.waits.clear()
        self._fold()
        self.synced |= self.data

    def pending(self) -> list[Change | int]:
        """Changes of names, and numbers of files, that may be missing after a power failure."""
        files = [number for number, data in self.data.items() if self.synced.get(number) != data]
        return [*(change for change in self.changes if change.waits), *files]

    def after(self, lost: dict[int, bytes], undone: set[int]) -> "Disk":
        """What stands there when the power is back.

        Args:
            lost: what files hold that lost something.
            undone: the identities of changes of names that did not reach the disk.
        """
        names = {folder: dict(entries) for folder, entries in self.lasting.items()}
        for change in self.changes:
            if id(change) not in undone:
                _write_entries(names, change)
        return Disk(names=names, data=self.data | lost)

    def tree(self, place: str) -> State | None:
        """All below a path by its relative path, folders as None; None where nothing stands there."""
        number = self._find(place)
        if number is None:
            return None
        return dict(self._walk(number, ""))

    def _walk(self, number: int, inside: str) -> Iterator[tuple[str, bytes | None]]:
        if number in self.data:
            yield inside, self.data[number]
            return
        if inside:
            yield inside, None
        for name, entry in self.names.get(number, {}).items():
            yield from self._walk(entry, f"{inside}/{name}" if inside else name)

    def _find(self, place: str | None) -> int | None:
        if place is None:
            return None
        number: int | None = 0
        for name in filter(None, place.split("/")):
            number = self.names.get(number, {}).get(name) if number is not None else None
        return number

    def _new(self, *, folder: bool) -> int:
        number = next(self.numbers)
        if folder:
            self.names[number] = {}
            self.lasting[number] = {}
        else:
            self.data[number] = b""
        return number

    def _open(self, place: str | None, arguments: str) -> bool:
        if place is None or not re.search(r"O_WRONLY|O_RDWR", arguments):
            return False
        number = self._find(place)
        if number is None:
            self._change({place: self._new(folder=False)}, [place])
            return True
        if "O_TRUNC" not in arguments:
            return False
        self.data[number] = b""
        return True

    def _change(self, entries: dict[str | None, int | None], durable_at: list[str | None]) -> None:
        """Change names; what leads out of the root has none there."""
        found = {}
        for place, number in entries.items():
            if place is not None:
                folder = self._find(posixpath.dirname(place))
                assert folder is not None, place
                found[folder, posixpath.basename(place)] = number
        waits = {self._find(posixpath.dirname(place)) for place in durable_at if place is not None}
        change = Change(found, {number for number in waits if number is not None})
        _write_entries(self.names, change)
        self.changes.append(change)

    def _sync(self, number: int) -> None:
        if number in self.data:
            self.synced[number] = self.data[number]
            return
        for change in self.changes:
            change.waits.discard(number)
        self._fold()

    def _fold(self) -> None:
        """Let changes that last, and come before all that may be undone, be the state of the disk."""
        count = next((index for index, change in enumerate(self.changes) if change.waits), len(self.changes))
        for change in self.changes[:count]:
            _write_entries(self.lasting, change)
        del self.changes[:count]


def _write_entries(names: dict[int, dict[str, int]], change: Change) -> None:
    for (folder, name), number in change.entries.items():
        entries = names.setdefault(folder, {})
        if number is None:
            entries.pop(name, None)
        else:
            entries[name] = number


def _below(path: str, root: str) -> str | None:
    """A path from the root, which itself is empty; None where it is not below it."""
    return path[len(root) + 1 :] if f"{path}/".startswith(f"{root}/") else None


def possible(disk: Disk, draw: random.Random) -> Iterator[Disk]:
    """Each state after a power failure now: all of them where little is open, else a thousand that are drawn."""
    pending = disk.pending()
    if len(pending) <= MAX_PENDING:
        chosen: Iterator[tuple[bool, ...]] = itertools.product((True, False), repeat=len(pending))
    else:
        chosen = (tuple(draw.random() < part for _ in pending) for part in (draw.random() for _ in range(MAX_DRAWN)))
    for missing in chosen:
        gone = [item for item, is_missing in zip(pending, missing, strict=True) if is_missing]
        files = [item for item in gone if isinstance(item, int)]
        undone = {id(item) for item in gone if isinstance(item, Change)}
        yield disk.after(dict.fromkeys(files, b""), undone)
        if files:
            cut = {
                number: draw.choice([disk.data[number][: len(disk.data[number]) // 2], disk.synced.get(number, b"")])
                for number in files
            }
            yield disk.after(cut, undone)


def write_tree(tree: State, folder: Path) -> None:
    """Make a state of a folder on this machine's disk."""
    folder.mkdir(parents=True)
    for name, data in tree.items():
        if data is None:
            (folder / name).mkdir()
        else:
            (folder / name).write_bytes(data)


def read_tree(folder: Path) -> State:
    """The state of a folder on this machine's disk."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }
