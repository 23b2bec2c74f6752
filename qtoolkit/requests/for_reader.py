"""Define the option that names the program which shall load a result."""

from dataclasses import dataclass

from qtoolkit.readers import READER_NAMES, check_reader
from qtoolkit.requests.option_field import Request, option


@dataclass(frozen=True, kw_only=True)
class ForReader(Request):
    """Hold the program that shall load a result."""

    for_: str | None = option(
        None,
        help=f"program that shall load the result, which is refused where it would not: {', '.join(READER_NAMES)}; "
        "or one version of it: vllm==0.10",
        empty="no program in particular",
        metavar="PROGRAM",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "for_", check_reader(self.for_))
