"""Define the options of `qtoolkit.frontier`."""

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any

from qtoolkit.errors import ConfigError
from qtoolkit.requests.candidates_request import BASE, CandidatesRequest
from qtoolkit.requests.option_field import describe, option
from qtoolkit.units import parse_bytes

_EXAMPLES = 'memory="4 GB", or sizes=["90 MB", "120 MB"]'


@dataclass(frozen=True)
class FrontierRequest(CandidatesRequest):
    """Hold a model, the recipes that it is quantized with, and which of them are measured."""

    model: Any = field(metadata=BASE)
    configs: Sequence[Any] | None = field(
        default=None, metadata=describe("recipes, what `compare` takes; None for those that the methods name")
    )
    _: KW_ONLY
    memory: int | str | None = option(
        None, help='bytes that using a result may take, such as "4 GB": what fits is measured', metavar="SIZE"
    )
    sizes: Sequence[int | str] = option(
        (), help='sizes of weight files, such as "90 MB": what comes nearest to each is measured', metavar="SIZE"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.sizes, list | tuple):
            raise ConfigError(f'sizes must be a list, such as ["90 MB", "120 MB"], got {self.sizes!r:.60}')
        _ = self.wanted_sizes
        if self.memory is not None and self.sizes:
            raise ConfigError(f"memory and sizes are two ways to choose what is measured: give one, {_EXAMPLES}")
        if self.memory is None and not self.sizes and self.configs is None:
            raise ConfigError(f"memory or sizes must say what is measured: {_EXAMPLES}; or configs, to measure all")

    @property
    def wanted_sizes(self) -> tuple[int, ...]:
        """Return the sizes in bytes, the smallest first, each once."""
        return tuple(sorted({parse_bytes(size) for size in self.sizes}))
