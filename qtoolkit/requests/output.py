"""Define options that say where a result is saved, and what becomes of an unfinished one."""

from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from qtoolkit.files import path_of
from qtoolkit.requests.option_field import Request, option


@dataclass(frozen=True, kw_only=True)
class OutputFolder(Request):
    """Hold the folder of a result."""

    output: str | PathLike[str] | None = option(
        None, help="folder to save the result in, which appears when it is complete", empty="memory only", metavar="DIR"
    )

    @property
    def folder(self) -> Path | None:
        """Return the output folder as an absolute path; None where none was given.

        Raises:
            ConfigError: it is no path.
        """
        return None if self.output is None else path_of(self.output, "output")


@dataclass(frozen=True, kw_only=True)
class Resumable(Request):
    """Hold what becomes of the output of earlier calls."""

    resume: bool = option(True, help="go on with what an earlier call had done when it was stopped", empty="start anew")
    resume_repo: str | None = option(
        None, help="private repository on the Hub that the blocks done are pushed to, and pulled from", metavar="REPO"
    )
    overwrite: bool = option(False, help="replace the output folder when it exists")
