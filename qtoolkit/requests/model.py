"""Define options that say which model is meant, where it comes from and where it runs."""

from dataclasses import dataclass
from typing import Any

from qtoolkit.errors import ConfigError
from qtoolkit.records import Machine, OnProgress, ignore_progress
from qtoolkit.requests.option_field import Request, option
from qtoolkit.tokens import concealed
from qtoolkit.units import parse_bytes

# Tokens for which the use of a result is planned if nobody says otherwise.
DEFAULT_CONTEXT = 4096
MODEL = (
    "a Hub id (`name` or `name@revision`; `name:Q4_K_M` is one of several `.gguf` files), a folder, a `.gguf` file or "
    "a loaded `PreTrainedModel`"
)
CONFIG = "a config of one of the methods, a method's name, or transformers' own quantization config"


@dataclass(frozen=True, kw_only=True)
class HubToken(Request):
    """Hold the token of the Hub."""

    token: str | None = option(None, help="Hub token", empty="the one that huggingface_hub finds", secret=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.token, str | None):
            raise ConfigError(f"token must be a text, got {type(self.token).__name__}: give one, or leave it out")
        # The dataclass is frozen.
        object.__setattr__(self, "token", concealed(self.token))


@dataclass(frozen=True, kw_only=True)
class HubSource(HubToken):
    """Hold which version of a model on the Hub is meant, and the token."""

    revision: str | None = option(None, help="branch, tag or commit of a model on the Hub", empty="main")


@dataclass(frozen=True, kw_only=True)
class WithTokenizer(Request):
    """Hold a tokenizer."""

    tokenizer: Any = option(None, help="tokenizer to use", empty="the one that is found beside the model")


@dataclass(frozen=True, kw_only=True)
class ModelSource(HubSource, WithTokenizer):
    """Hold where a model and its tokenizer come from."""


@dataclass(frozen=True, kw_only=True)
class OnDevice(Request):
    """Hold a device."""

    device: str = option("auto", help="where the model runs: cpu, cuda, cuda:1, or auto for a GPU if there is one")


@dataclass(frozen=True, kw_only=True)
class PlannedUse(Request):
    """Hold what the use of a model is planned for."""

    machine: str | Machine | None = option(
        None, help="machine to plan for: t4, l4, a100-80, cpu-12gb, ...", empty="this one"
    )
    context: int = option(DEFAULT_CONTEXT, help="tokens for which using the result is planned", unit="tokens", least=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.machine, str | Machine | None):
            raise ConfigError(f"machine must be the name of one or a Machine, got {self.machine!r:.40}")


@dataclass(frozen=True, kw_only=True)
class MemoryLimit(Request):
    """Hold how much memory the use of a model may take."""

    memory: int | str | None = option(
        None, help='memory that the best one may take in use, such as "4 GB"', empty="all that there is", metavar="SIZE"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self.memory_limit

    @property
    def memory_limit(self) -> int | None:
        """Return the memory in bytes; None where no limit was given."""
        return None if self.memory is None else parse_bytes(self.memory)


@dataclass(frozen=True, kw_only=True)
class WithProgress(Request):
    """Hold who is called while a job runs."""

    on_progress: OnProgress | None = option(
        None, help="called with a `ProgressEvent` after each step; stops the job by raising `JobCancelled`"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_uncallable("on_progress", self.on_progress)

    @property
    def report(self) -> OnProgress:
        """Return what is called with each event."""
        return self.on_progress or ignore_progress


def refuse_uncallable(name: str, value: Any) -> None:
    """Refuse a callback that cannot be called, before the work that it would be called during.

    Raises:
        ConfigError: it is neither None nor a function.
    """
    if value is not None and not callable(value):
        raise ConfigError(f"{name} must be a function, got {value!r:.40}")
