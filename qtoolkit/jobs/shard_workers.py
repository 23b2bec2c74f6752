"""Quantize in shards on other processes or machines: any `concurrent.futures.Executor`, Dask's among them."""

import os
import platform
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtoolkit.errors import (
    ConfigError,
    DiskFullError,
    InsufficientMemoryError,
    OutputError,
    QToolkitError,
    memory_cause,
    oneline,
)
from qtoolkit.files import DISK_FULL
from qtoolkit.jobs.checkpoint_opening import open_source, portable_name
from qtoolkit.jobs.dask_workers import PausedWorkers, client_of, refuse_small
from qtoolkit.jobs.executor_tasks import HEARTBEAT, answers, dask_status
from qtoolkit.jobs.held import Held
from qtoolkit.measure.host import versions
from qtoolkit.models.checkpoint import Checkpoint
from qtoolkit.records import OnProgress, ProgressEvent
from qtoolkit.requests import ConvertRequest, EvaluateRequest, ModelSource, QuantizeRequest
from qtoolkit.stream.shard_worker import ShardWorker
from qtoolkit.stream.shards import ShardedJob, Task

if TYPE_CHECKING:
    from concurrent.futures import Executor, Future

# Packages of which each worker has the same version.
_SAME = ("qtoolkit", "torch", "transformers")
# What a pool of processes, and what Dask, says of workers that ended.
_LOST = ("BrokenProcessPool", "KilledWorker")
_WHY_LOST = "; workers are lost mostly where memory runs out"
_WORKER = "worker "
SHARDS_KEPT = "blocks that are done are kept, and the same call goes on with them, with other workers or none"


class ExecutorWorkers:
    """Do jobs in shards on an executor; implements `Workers`.

    Workers read the model themselves, with the Hub token of their own machine.

    Args:
        request: names the executor and the model.
        checkpoint: the model, opened here.
        opens: opens it in a worker; None for a model in full precision, by its name.
        kept: ends the message about workers that are lost.
    """

    is_parallel = True

    def __init__(
        self,
        request: ConvertRequest | EvaluateRequest | QuantizeRequest,
        checkpoint: Checkpoint,
        *,
        opens: Callable[[], Checkpoint] | None = None,
        kept: str = SHARDS_KEPT,
    ) -> None:
        assert request.executor is not None
        self._executor: Executor = request.executor
        self._client = client_of(self._executor)
        self._retries = request.retries
        self._fingerprint = checkpoint.fingerprint()
        name = portable_name(request.model, checkpoint)
        self._opens = opens or partial(_open_named, name, checkpoint.commit_hash)
        self._kept = kept

    @property
    def opens(self) -> Callable[[], Checkpoint]:
        """See `Workers`."""
        return self._opens

    @property
    def count(self) -> int | None:
        """Return how many workers there are; None where the executor does not tell."""
        if self._client is not None:
            return len(self._client.nthreads())
        # Of pools of processes and of threads, which tell it nowhere else.
        return getattr(self._executor, "_max_workers", None)

    def check(self, folder: Path | None, on_progress: OnProgress) -> None:
        """Refuse workers that cannot do the job, before it begins: each of Dask's, and one of another executor.

        Args:
            folder: a new one beside the output; None where nothing is written.
            on_progress: called twice a second; it may raise `JobCancelled`.

        Raises:
            ConfigError: the executor takes no work, or a worker differs or lacks something; the message names it.
            InsufficientMemoryError: all workers of Dask have used up theirs.
        """
        seen = folder / f".seen-{secrets.token_hex(8)}" if folder else None
        known = versions()
        arguments = ({name: known[name] for name in _SAME}, seen, self._opens, self._fingerprint)
        if seen:
            seen.touch()
        try:
            found = self._one_each(look_around, *arguments)
            on_wait = self._watching(
                lambda: on_progress(ProgressEvent("load", 0, 0, "bytes", "workers look at the model"))
            )
            lost = [name for name, future in found if not self._has_looked(name, future, on_wait)]
        finally:
            if seen:
                seen.unlink(missing_ok=True)
        if len(lost) == len(found):
            raise ConfigError(
                f"{lost[0]} was lost before any work{_WHY_LOST}: give workers more, or leave executor out"
            )

    def _has_looked(self, name: str, future: "Future[Any]", on_wait: Callable[[], None]) -> bool:
        """Wait until a worker has looked around; return whether it did, and was not lost.

        Raises:
            ConfigError: it cannot take part.
        """
        address = name.removeprefix(_WORKER)
        while True:
            try:
                future.result(timeout=HEARTBEAT)
            except QToolkitError:
                raise
            except Exception as error:
                if isinstance(error, TimeoutError) and not future.done():
                    on_wait()
                    # What Dask gives one worker alone waits for it for ever.
                    if self._client is None or address in self._client.nthreads():
                        continue
                    future.cancel()
                    return False
                if type(error).__name__ in _LOST:
                    return False
                what = f"{type(error).__name__}: {oneline(error)}"
                raise ConfigError(f"{name} cannot take part ({what}): install there what is here") from error
            return True

    def check_memory(self, needed: int) -> None:
        """Refuse workers of Dask that may not use as much memory as a job needs; raises as `refuse_small`.

        Args:
            needed: bytes of a worker at its peak.
        """
        if self._client is not None:
            refuse_small(self._client, needed, kept=self._kept)

    def _watching(self, on_wait: Callable[[], None]) -> Callable[[], None]:
        """Return what calls `on_wait`, and ends all when every worker of Dask has stopped taking tasks."""
        if self._client is None:
            return on_wait
        paused = PausedWorkers(self._client, kept=self._kept)

        def wait() -> None:
            on_wait()
            paused.refuse()

        return wait

    def _one_each(self, function: Callable[..., Any], *arguments: Any) -> list[tuple[str, "Future[Any]"]]:
        """Call a function once on each worker that is known by its address, or once at all."""
        client = self._client
        status = dask_status(self._executor)
        if status != "running":
            raise ConfigError(f"the Dask client of executor is {status}: give one that is open, or leave it out")
        try:
            if client is None:
                return [("a worker", self._executor.submit(function, *arguments))]
            addresses = list(client.nthreads())
            submit = partial(client.submit, function, *arguments, pure=False, allow_other_workers=False)
            found = [(f"{_WORKER}{address}", submit(workers=[address])) for address in addresses]
        except Exception as error:
            what = f"executor takes no work ({type(error).__name__}: {oneline(error)})"
            raise ConfigError(f"{what}: give one that is open, or leave it out") from error
        if not found:
            raise ConfigError("the cluster of executor has no workers: start some, or leave executor out")
        return found

    def tasks(self, job: ShardedJob) -> "_ExecutorTasks":
        """See `Workers`."""
        return _ExecutorTasks(self, job)

    def run(
        self, function: Callable[..., Any], calls: Sequence[tuple[Any, ...]], on_wait: Callable[[], None]
    ) -> Iterator[tuple[int, Any]]:
        """Call a function on workers; yield numbers of calls and results as they come.

        Args:
            function, calls, on_wait: as for `answers`.

        Raises:
            QToolkitError: a call failed, or its worker was lost too often.
        """
        watching = self._watching(on_wait)
        with closing(answers(self._executor, function, calls, retries=self._retries, on_wait=watching)) as found:
            for answer in found:
                if isinstance(answer.error, QToolkitError):
                    raise answer.error
                if answer.error is not None:
                    kind = type(answer.error).__name__
                    why = _WHY_LOST if kind in _LOST else ""
                    what = f"{kind}: {oneline(answer.error)}{why}"
                    raise QToolkitError(f"the workers did not do their work ({what}): {self._kept}") from answer.error
                yield answer.number, answer.result


class _ExecutorTasks:
    """Do the tasks of a job on an executor; implements `Tasks`."""

    def __init__(self, workers: ExecutorWorkers, job: ShardedJob) -> None:
        self._workers = workers
        self._job = job

    def run(self, tasks: Sequence[Task], on_wait: Callable[[], None]) -> Iterator[tuple[int, Any]]:
        """See `Tasks`."""
        yield from self._workers.run(do_task, [(self._job, task) for task in tasks], on_wait)

    def close(self) -> None:
        """See `Tasks`: what a pool of threads left in this process; other processes keep a block until the next job."""
        _held.forget(self._job.key)


def look_around(known: Mapping[str, str], seen: Path | None, opens: Callable[[], Checkpoint], fingerprint: str) -> None:
    """Check in a worker that it can do a job.

    Args:
        known: versions of packages.
        seen: a file that it must see; None for none.
        opens: opens the model.
        fingerprint: of the model.

    Raises:
        ConfigError: it cannot; the message names it.
    """
    own = versions()
    for name, version in known.items():
        if own.get(name) != version:
            raise ConfigError(f"{_name()} has {name} {own.get(name, 'not at all')}, not {version}: install that there")
    if seen and not (seen.is_file() and os.access(seen.parent, os.W_OK)):
        raise ConfigError(f"{_name()} does not see {seen.parent}: name an output in a folder that all workers share")
    try:
        found = opens().fingerprint()
    except QToolkitError as error:
        raise ConfigError(f"{_name()} cannot read the model: {oneline(error)}") from error
    if found != fingerprint:
        raise ConfigError(f"{_name()} reads other weights under the model's name: give all workers the same files")


def do_task(job: ShardedJob, task: Task, attempt: int) -> Any:
    """Do a task in this process, one at a time whatever its threads.

    Raises:
        QToolkitError: it fails and would fail again; the message names the worker.
    """
    with naming_worker(), _held.lock:
        return task(_held.get(job.key, partial(ShardWorker, job)))


@contextmanager
def naming_worker(kept: str = SHARDS_KEPT) -> Iterator[None]:
    """Let errors of a `with` block that would come again name this worker.

    Args:
        kept: ends the messages about memory and disk.

    Raises:
        QToolkitError: they, and those of memory and disk.
    """
    try:
        yield
    except QToolkitError as error:
        raise type(error)(f"{_name()}: {error}") from error
    except Exception as error:
        cause = memory_cause(error)
        if cause:
            raise InsufficientMemoryError(f"{_name()} ran out of memory ({cause}): give it more; {kept}") from error
        if isinstance(error, OSError):
            kind = DiskFullError if error.errno in DISK_FULL else OutputError
            what = error.strerror or oneline(error)
            raise kind(f"{_name()} cannot write beside the output ({what}): free some room; {kept}") from error
        raise


# The block that the last task left in memory.
_held: Held[ShardWorker] = Held(ShardWorker.close)


def _open_named(name: str, commit_hash: str | None) -> Checkpoint:
    """Open a model with the Hub token of this machine."""
    return open_source(name, ModelSource(revision=commit_hash))


def _name() -> str:
    """Return what this worker is called: its machine and process."""
    return f"worker {platform.node()}, process {os.getpid()},"
