"""Show the results of a panel's jobs as text and HTML in the cell's own output, which a page without a kernel keeps."""

import os
from html import escape
from typing import Any

from IPython.display import display
from ipywidgets import HTML, Layout

from qtoolkit.records import Record


class Results:
    """The last result of each verb, and the error that ended a later job of it, if there was one.

    A widget is gone with its kernel. So results are put into an output of the cell that has no widget in it, and which
    is replaced when another job has ended, from whatever thread. A page of Voila cannot replace an output, and ends
    with its kernel: there they are a widget.
    """

    def __init__(self) -> None:
        # (verb, whether it returned a record) -> the call, and its record or error; the latest last.
        self._shown: dict[tuple[str, bool], tuple[str, Record | str]] = {}
        self._handles: list[Any] = []
        self._in_app = HTML(layout=Layout(max_width="100%")) if _is_app() else None

    @property
    def records(self) -> dict[str, Record | str]:
        """Return by verb what its last job gave: a record, or the line of its error."""
        return {verb: record for (verb, _), (_, record) in self._shown.items()}

    def open(self) -> None:
        """Show them in the output of the cell that runs."""
        if self._in_app is None:
            self._handles.append(display(self._bundle(), raw=True, display_id=True))
        else:
            self._in_app.value = self._bundle()["text/html"]
            display(self._in_app)

    def forget_error(self, verb: str) -> None:
        """Take the error of a verb's last job away: another one has begun."""
        if self._shown.pop((verb, False), None) is not None:
            self._show()

    def add(self, verb: str, call: str, record: Record | str) -> None:
        """Add the record, or the line of the error, that a call gave, and show all again."""
        # A record replaces the verb's last record and its last error; an error replaces only the last error.
        succeeded = not isinstance(record, str)
        replaced = ((verb, succeeded), (verb, False))
        others = {key: shown for key, shown in self._shown.items() if key not in replaced}
        self._shown = {**others, (verb, succeeded): (call, record)}
        self._show()

    def _show(self) -> None:
        if self._in_app is not None:
            self._in_app.value = self._bundle()["text/html"]
        for handle in filter(None, self._handles):
            handle.update(self._bundle(), raw=True)

    def _bundle(self) -> dict[str, str]:
        if not self._shown:
            text = "The results of jobs appear here. They stay in the notebook when the kernel has ended."
            return {"text/plain": text, "text/html": f'<div style="opacity:.8">{text}</div>'}
        plain = "\n\n".join(f"{call}\n{record}" for call, record in self._shown.values())
        return {"text/plain": plain, "text/html": "".join(_html(call, record) for call, record in self._shown.values())}


def _is_app() -> bool:
    """Check whether Voila shows this kernel's outputs; it sets SERVER_SOFTWARE, as web servers do."""
    return os.environ.get("SERVER_SOFTWARE", "").startswith("voila/")


def _html(call: str, record: Record | str) -> str:
    shown = (
        record._repr_html_()
        if isinstance(record, Record)
        else f'<div style="font-weight:bold">✖ {escape(record)}</div>'
    )
    return f'<div style="margin:8px 0"><code style="overflow-wrap:anywhere">{escape(call)}</code>{shown}</div>'
