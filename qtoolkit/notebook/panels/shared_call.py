"""Hold a call whose work a panel shares out: to processes of this machine, or to a Dask cluster."""

from dataclasses import dataclass
from typing import Any

from qtoolkit.notebook.line_workers import cluster, processes
from qtoolkit.notebook.panels.field import Field, text_field
from qtoolkit.notebook.panels.verb_call import Variable, VerbCall

_LABEL = "Workers"
_POOL = (
    "import torch; from concurrent.futures import ProcessPoolExecutor; from multiprocessing import get_context",
    "ProcessPoolExecutor({}, get_context('spawn'), torch.set_num_threads, (1,))",
)
_CLIENT = ("from distributed import Client", "Client({!r})")


@dataclass(frozen=True)
class SharedCall(VerbCall):
    """A call of a verb, with workers that begin and end with it.

    Attributes:
        workers: a number of processes, or the address of a Dask scheduler; empty for neither.
    """

    workers: str = ""

    def __str__(self) -> str:
        imports, executor = _POOL if self.workers.isdecimal() else _CLIENT
        written = executor.format(int(self.workers) if self.workers.isdecimal() else self.workers)
        options = {**self.options, "executor": Variable(written, None)} if self.workers else self.options
        call = str(VerbCall(self.verb, self.arguments, options, self.into))
        return f"{imports}; {call}" if self.workers else call

    def run(self, **hidden: Any) -> Any:
        """See `VerbCall`.

        Raises:
            ConfigError: there are no such workers.
        """
        if not self.workers:
            return super().run(**hidden)
        opened = processes if self.workers.isdecimal() else cluster
        with opened(self.workers, _LABEL) as executor:
            return super().run(executor=executor, **hidden)


def workers_field() -> Field:
    """Make a field for the workers of a call."""
    hint = "how many processes of this machine share the work, or the address of a Dask scheduler (tcp://host:8786)"
    return text_field(_LABEL, hint=f"{hint}; empty for this process alone")


def given_workers(field: Field) -> str:
    """Return what the field says.

    Raises:
        ConfigError: it is neither a number nor an address; the message is shown beside it.
    """
    text = str(field.value)
    if text and not text.isdecimal() and "://" not in text:
        field.refuse(
            f"{_LABEL} must be a number of processes, or an address of Dask such as tcp://host:8786, got {text!r:.40}"
        )
    return text
