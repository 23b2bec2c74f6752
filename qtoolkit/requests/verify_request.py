"""Define the options of `qtoolkit.verify`."""

from dataclasses import KW_ONLY, dataclass, field
from os import PathLike

from qtoolkit.records import OnCheck
from qtoolkit.requests.for_reader import ForReader
from qtoolkit.requests.model import WithProgress, refuse_uncallable
from qtoolkit.requests.option_field import describe, option


@dataclass(frozen=True, kw_only=True)
class CheckOptions(WithProgress):
    """Hold what a saved model is compared with, and who is told of each check."""

    base: str | PathLike[str] | None = option(
        None,
        help="full-precision model to compare with",
        empty="the one in the receipt, if it is here",
        metavar="MODEL",
    )
    on_check: OnCheck | None = option(None, help="called with each check as soon as it is made")

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_uncallable("on_check", self.on_check)


@dataclass(frozen=True)
class VerifyRequest(CheckOptions, ForReader):
    """Hold a saved model that is verified."""

    path: str | PathLike[str] = field(metadata=describe("a folder that `quantize` wrote, or any other with a model"))
    _: KW_ONLY
    license: str | None = option(None, help="licence that a card will name, of a base whose card names none")
