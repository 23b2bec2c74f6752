"""Start or find the workers that the line of a magic asks for: processes here, or a Dask cluster."""

import multiprocessing
import re
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any

from qtoolkit.errors import ConfigError, QToolkitError, oneline
from qtoolkit.optional import optional
from qtoolkit.units import format_count

# More processes than any machine has cores.
_MOST = 1024
# Seconds until a scheduler has answered, or is taken for absent.
_ANSWERS_IN = 10
# As messages have it, and no path.
_EXECUTOR = re.compile(r"(?<![\w./-])executor\b(?![\w./-])=?")


@contextmanager
def with_workers(options: Mapping[str, Any], given: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the options of a verb, with the executor that a line asks for; it is closed at the end.

    Args:
        options: those of the verb that the line gives.
        given: all options that the line gives; `workers` counts processes, `dask` is the address of a scheduler.

    Raises:
        ConfigError: the line gives several of `--executor`, `--workers` and `--dask`, or no scheduler answers.
        MissingDependencyError: Dask is asked for, and not installed.
    """
    ways = [flag for flag in ("executor", "workers", "dask") if flag in given]
    if len(ways) > 1:
        raise ConfigError(f"--{ways[0]} and --{ways[1]} both say who does the work: give one")
    if "workers" in given:
        with processes(given["workers"], "--workers") as executor:
            yield {**options, "executor": executor}
    elif "dask" in given:
        with cluster(given["dask"], "--dask") as client:
            yield {**options, "executor": client}
    else:
        yield dict(options)


def with_count(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a plan, whose `workers` is a number, as a line gives them.

    Raises:
        ConfigError: it is none.
    """
    return {name: _count_of(value, "--workers") if name == "workers" else value for name, value in options.items()}


def _count_of(text: str, label: str) -> int:
    """Read how many workers are asked for, by a line or a field of this label.

    Raises:
        ConfigError: the text is no number, or too many.
    """
    if not text.isdecimal() or not 0 < int(text) <= _MOST:
        raise ConfigError(f"{label} must be a number of processes from 1 to {format_count(_MOST)}, got {text!r}")
    return int(text)


@contextmanager
def processes(text: str, label: str) -> Iterator[ProcessPoolExecutor]:
    """Start processes of one thread each, so that results are the same for any number of them; they end with the block.

    Args:
        text: their number.
        label: what says it, "--workers".

    Raises:
        ConfigError: it is no such number.
    """
    count = _count_of(text, label)
    from qtoolkit.jobs.executor_tasks import take_one_thread

    # Forking a kernel, which has threads, may hang.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(count, mp_context=context, initializer=take_one_thread)
    try:
        with _named(label):
            yield pool
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def cluster(address: str, label: str) -> Iterator[Any]:
    """Connect to a scheduler, until the block ends.

    Args:
        address: "tcp://192.168.1.20:8786".
        label: what says it, "--dask".

    Raises:
        ConfigError: none answers there.
        MissingDependencyError: Dask is not installed.
    """
    distributed = optional("distributed", label)
    try:
        client = distributed.Client(address, timeout=_ANSWERS_IN)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{label} {address}: no scheduler answers there ({oneline(error)}): start one with `dask scheduler`, and "
            "give the address that it prints"
        ) from error
    with client, _named(label):
        yield client


@contextmanager
def _named(label: str) -> Iterator[None]:
    """Let errors of a `with` block name what says who does the work, where Python has `executor=`.

    Args:
        label: "--workers".
    """
    try:
        yield
    except QToolkitError as error:
        said = _EXECUTOR.sub(label, str(error))
        if said == str(error):
            raise
        raise type(error)(said) from error
