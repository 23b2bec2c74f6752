"""Share out the parts of a result: each is made by a worker, into a file of a journal."""

import secrets
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

from qtoolkit.checkpoints.safetensors import StoredTensor, read_tensors
from qtoolkit.errors import DiskFullError
from qtoolkit.files import sha256_of
from qtoolkit.jobs.held import Held
from qtoolkit.jobs.shard_workers import ExecutorWorkers, naming_worker
from qtoolkit.measure.disk import free_disk
from qtoolkit.measure.malloc import give_memory_back
from qtoolkit.methods import MethodConfig
from qtoolkit.models.checkpoint import Checkpoint
from qtoolkit.records import OnProgress, ProgressEvent
from qtoolkit.stream.journal import Fits, Journal, JournalLocation
from qtoolkit.units import format_bytes

PARTS_KEPT = "blocks that are done are kept, and the same call goes on with them"


class Parts(Protocol):
    """Make the parts of a result, one at a time."""

    def make(self, number: int) -> tuple[Mapping[str, Any], dict[str, Any]]:
        """Return the tensors of a part by name, and JSON-ready facts about it."""


@dataclass(frozen=True)
class PartsJob:
    """Hold what every process that works on a job knows; it can be pickled.

    Attributes:
        opens: opens in a worker what makes the parts.
        journal: folder of the journal.
        recipe: of the journal.
        absent: as for `Journal`.
        key: of this run of the job, unlike that of any other.
    """

    opens: Callable[[], Parts]
    journal: Path
    recipe: Mapping[str, Any]
    absent: Mapping[str, Any]
    key: str


class MadeParts(NamedTuple):
    """Hold the parts of a result that are made.

    Attributes:
        files: of their tensors, in the order of the parts.
        facts: about each.
        notes: of the journal.
    """

    files: tuple[Path, ...]
    facts: tuple[Mapping[str, Any], ...]
    notes: tuple[str, ...]

    def tensors(self) -> dict[str, StoredTensor]:
        """Return the tensors of all parts by name; none is read."""
        return {name: tensor for file in self.files for name, tensor in read_tensors(file).items()}


def make_parts(
    opens: Callable[[], Parts],
    names: Sequence[str],
    *,
    workers: ExecutorWorkers,
    location: JournalLocation,
    recipe: Mapping[str, Any],
    absent: Mapping[str, Any] = MappingProxyType({}),
    fits: Fits = lambda tensors, facts: True,
    on_progress: OnProgress,
    phase: str = "quantize",
) -> MadeParts:
    """Make the parts of a result on workers, those that the journal does not have yet.

    Args:
        opens: opens in a worker what makes them; it can be pickled.
        names: of all parts, for the progress.
        workers: do the work.
        location: of the journal.
        recipe, absent: as for `Journal`.
        fits: as for `Journal.read`.
        on_progress: called when a part is made, and twice a second; it may raise `JobCancelled`.
        phase: of the job, as it is called there.

    Raises:
        QToolkitError: a task failed; parts that are made are kept.
    """
    journal = Journal(location, recipe, absent=absent)
    facts = {number: found.facts for number in range(len(names)) if (found := journal.read(number, fits))}

    def report(what: str = "") -> None:
        on_progress(ProgressEvent(phase, len(facts), len(names), "blocks", what))

    report()
    # A read-only view cannot be pickled.
    job = PartsJob(opens, location.folder, recipe, dict(absent), secrets.token_hex(8))
    missing = [number for number in range(len(names)) if number not in facts]
    try:
        for at, found in workers.run(make_part, [(job, number) for number in missing], report):
            facts[missing[at]] = found
            report(names[missing[at]])
    finally:
        _held.forget(job.key)
    numbers = range(len(names))
    files = tuple(journal.files(number)[0] for number in numbers)
    return MadeParts(files, tuple(facts[number] for number in numbers), tuple(journal.notes))


def make_part(job: PartsJob, number: int, attempt: int) -> dict[str, Any]:
    """Make a part in this process, one at a time whatever its threads, and keep it in the journal.

    Returns:
        What the journal has of it beside the tensors.

    Raises:
        QToolkitError: it fails and would fail again; the message names the worker.
    """
    with naming_worker(PARTS_KEPT), _held.lock:
        parts, journal = _held.get(job.key, lambda: (job.opens(), _journal_of(job)))
        tensors, facts = parts.make(number)
        journal.write(number, tensors, facts)
        del tensors
        give_memory_back()
    return facts


def _journal_of(job: PartsJob) -> Journal:
    return Journal(JournalLocation(job.journal), job.recipe, absent=job.absent)


# What makes the parts of the last task's job.
_held: Held[tuple[Parts, Journal]] = Held()


@contextmanager
def folder_for_workers(location: JournalLocation) -> Iterator[Path]:
    """Yield a folder beside a journal, for what all workers read; it is removed at the end."""
    beside = location.folder.parent
    with tempfile.TemporaryDirectory(prefix="parts-", dir=beside, ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def recipe_of(checkpoint: Checkpoint, config: MethodConfig) -> dict[str, Any]:
    """Return what the parts of every quantized model depend on: the model, and the config with the files it names."""
    named = (getattr(config, field.name) for field in fields(config) if "is_file" in field.metadata)
    return {
        "method": config.method,
        **config.to_file(),
        **{f"content of {file}": sha256_of(Path(file)) for file in named if file is not None},
        "commit_hash": checkpoint.commit_hash,
        "weights": checkpoint.fingerprint(),
        "dtype": str(checkpoint.dtype),
    }


def refuse_without_room(folder: Path, nbytes: int) -> None:
    """Refuse a job whose tensors will lie beside its result until that is complete.

    Args:
        folder: on the disk of both.
        nbytes: of the tensors.

    Raises:
        DiskFullError: there is no room for both.
    """
    if 2 * nbytes > free_disk(folder):
        raise DiskFullError(
            f"workers leave {format_bytes(nbytes)} beside the result, of the same size, until it is complete, and "
            f"{format_bytes(free_disk(folder))} are free: free some room, or name an output on another disk"
        )
