"""Say who does the work of a verb: this process, or an executor of `concurrent.futures`."""

from concurrent.futures import Executor
from typing import Any

from qtoolkit.errors import ConfigError

# What `executor` is for, of verbs that have it, is told by each.
RETRIES = "how often a job is begun again when its worker is lost"


def as_executor(given: Any) -> Executor | None:
    """Return an executor; that of a Dask client where a client is given.

    Raises:
        ConfigError: it is neither.
    """
    # Dask is not imported: who gives a client has it.
    if type(given).__module__.partition(".")[0] == "distributed" and hasattr(given, "get_executor"):
        given = given.get_executor()
    if given is None or isinstance(given, Executor):
        return given
    raise ConfigError(
        f"executor must be a concurrent.futures.Executor, got {type(given).__name__}: "
        "give a pool of processes, or a Dask client or its client.get_executor()"
    )


def resolve_executor(request: Any) -> None:
    """Put the executor of a Dask client in the client's place, in a request; raises as `as_executor`."""
    # The dataclass is frozen.
    object.__setattr__(request, "executor", as_executor(request.executor))


def refuse_unnamed(model: Any, *, is_named: bool) -> None:
    """Refuse a model that other processes cannot read.

    Raises:
        ConfigError: it is a loaded one.
    """
    if not is_named:
        raise ConfigError(
            f"executor= needs a model that workers can read: name its folder or Hub id, not a {type(model).__name__}"
        )
