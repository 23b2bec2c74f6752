"""Panels without a browser: their fields are set, their buttons pressed, as a page would."""

from collections.abc import Callable, Iterator
from html import unescape
from typing import Any

import pytest
from IPython.core.interactiveshell import InteractiveShell

from qtoolkit.notebook.panels import Panel
from qtoolkit.notebook.panels.field import Field
from tests.notebook.conftest import shell

__all__ = ["shell"]


def told(part: Any) -> str:
    """What one of the panels says of its last jobs, and beside its fields."""
    fields = (field.problem for field in vars(part).values() if isinstance(field, Field))
    further = (getattr(part, name).view for name in ("try_it", "zip_it") if hasattr(part, name))
    statuses = [unescape(view.status.value) for view in (part.runner.view, *further)]
    return " | ".join(filter(None, [*statuses, *fields]))


@pytest.fixture
def open_panel(shell: InteractiveShell) -> Iterator[Callable[..., Panel]]:
    """Opens panels that ask without a pause; closed at the end."""
    opened: list[Panel] = []

    def open_one(*arguments: Any, **options: Any) -> Panel:
        opened.append(Panel(*arguments, **options, pause=0.0))
        return opened[-1]

    yield open_one
    for panel in opened:
        panel.worker.cancelled.set()
        panel.worker.wait(60)
        for part in (panel.model, panel.plan):
            if part is not None:
                part.lookup.drop()
                part.lookup.wait()
        panel.close()
