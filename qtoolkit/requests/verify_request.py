"""What `qtoolkit.verify` is asked for."""

from dataclasses import dataclass, field
from os import PathLike

from qtoolkit.records import OnCheck
from qtoolkit.requests.field import describe, option
from qtoolkit.requests.model import WithProgress


@dataclass(frozen=True, kw_only=True)
class CheckOptions(WithProgress):
    """Hold what a saved model is compared with, and who is told of each check."""

    base: str | PathLike[str] | None = option(
        None,
        help="full-precision model to compare with: a folder, or a Hub id in the local cache",
        empty="the one that `qtoolkit.json` names, if it is in the cache",
        metavar="MODEL",
    )
    on_check: OnCheck | None = option(None, help="called with each check as soon as it is made; stops as `on_progress`")


@dataclass(frozen=True)
class VerifyRequest(CheckOptions):
    """Hold a saved model that is verified."""

    path: str | PathLike[str] = field(
        metadata=describe(
            "a folder that `quantize` wrote, or any other with a model: without its `qtoolkit.json`, by what its files "
            "alone tell"
        )
    )
