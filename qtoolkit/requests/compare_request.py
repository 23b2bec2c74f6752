"""Define the options of `qtoolkit.compare`."""

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any

from qtoolkit.errors import ConfigError
from qtoolkit.requests.candidates_request import BASE, CandidatesRequest
from qtoolkit.requests.option_field import describe, option


@dataclass(frozen=True)
class CompareRequest(CandidatesRequest):
    """Hold a model, the configs that it is quantized with, and what these are measured on."""

    model: Any = field(metadata=BASE)
    configs: Sequence[Any] = field(metadata=describe("what `quantize` takes, None for the model as it is, and paths"))
    _: KW_ONLY
    prompts: Sequence[str] = option((), help="texts that each candidate continues by 40 tokens", metavar="TEXT")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.prompts, list | tuple) or not all(isinstance(one, str) and one for one in self.prompts):
            raise ConfigError(f"prompts must be a list of texts, got {self.prompts!r:.60}")
