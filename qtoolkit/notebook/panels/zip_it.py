"""Put what was saved last into one file that a browser can download."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qtoolkit.notebook.panels.job_runner import Job, JobRunner
from qtoolkit.notebook.panels.progress_view import ProgressView
from qtoolkit.records import Archive


@dataclass(frozen=True)
class ZipCall:
    """Zip a folder; written as the call that does so without a panel.

    Attributes:
        folder: a saved model.
        verb: the name that its result is kept under.
    """

    folder: str
    verb: str = "zip"

    def __str__(self) -> str:
        path = Path(self.folder)
        return f"shutil.make_archive({self.folder!r}, 'zip', {str(path.parent)!r}, {path.name!r})"

    def run(self, **hidden: Any) -> Archive:
        """Zip it; `hidden` is `on_progress`."""
        from qtoolkit.jobs.zipping import zip_folder

        return zip_folder(Path(self.folder), **hidden)


class ZipIt:
    """A button that zips what was saved last.

    Args:
        runner: runs the job.

    Attributes:
        button, view: starts it, and tells how far it is.
    """

    def __init__(self, runner: JobRunner) -> None:
        self._folder = ""
        self.view = ProgressView()
        self.button = runner.further_button("Zip it for download", self._job, self.view)

    def take(self, folder: str) -> None:
        """Let it zip a folder that was just saved."""
        self._folder = folder

    def _job(self) -> Job:
        return Job(ZipCall(self._folder), f"zip file of {self._folder}", lambda archive: archive)
