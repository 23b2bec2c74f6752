"""Define what every magic needs: how progress is shown, and the variables that words of a line may name."""

from collections import ChainMap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from IPython.core.interactiveshell import InteractiveShell
from IPython.core.magic import Magics
from traitlets import Enum

from qtoolkit.errors import ConfigError
from qtoolkit.notebook.magic_errors import short_errors
from qtoolkit.notebook.progress import Progress, open_progress

Names = Mapping[str, Any]


class MagicsBase(Magics):
    """Hold the shell, its variables, and the way in which a running job is shown."""

    shell: InteractiveShell

    progress = Enum(
        ["auto", "widget", "text", "none"],
        default_value="auto",
        help="How a running job is shown: a bar (widget), plain lines (text), nothing (none), or whichever the "
        "front-end can show (auto).",
    ).tag(config=True)

    @short_errors
    def _refuse_words(self, line: str, magic: str) -> None:
        if line.strip():
            raise ConfigError(f"{magic} takes nothing on its line, got {line.strip()!r}")

    def _progress(self, title: str) -> Progress:
        return open_progress(self.progress, self.shell, title)

    def _named(self, text: str, local_ns: Names | None) -> Any:
        """Return the value of the variable of this name, if there is one and no such folder; otherwise the text."""
        names = ChainMap(dict(local_ns or {}), self.shell.user_ns)
        return names[text] if text.isidentifier() and text in names and not Path(text).is_dir() else text
