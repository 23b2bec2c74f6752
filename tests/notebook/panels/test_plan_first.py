"""The first plan is made alone: it imports, and two threads that parse sources at once trip CPython."""

import threading
from typing import Any

import pytest

import qtoolkit.api
from qtoolkit.notebook.panels import plan_panel
from qtoolkit.notebook.panels.plan_panel import _planned
from qtoolkit.notebook.panels.verb_call import VerbCall


def test_others_wait_for_the_first_and_then_for_none(monkeypatch: pytest.MonkeyPatch) -> None:
    gates, begun = ({name: threading.Event() for name in ("first", "second", "third")} for _ in range(2))

    def plan(model: str, **options: Any) -> str:
        begun[model].set()
        gates[model].wait(10)
        return model

    monkeypatch.setattr(qtoolkit.api, "plan", plan)
    monkeypatch.setattr(plan_panel, "_FIRST_IS_MADE", threading.Event())
    threads = {name: threading.Thread(target=_planned, args=(VerbCall("plan", (name,)), None)) for name in gates}
    threads["first"].start()
    assert begun["first"].wait(10)
    threads["second"].start()
    assert not begun["second"].wait(0.2)
    gates["first"].set()
    threads["first"].join(10)
    assert begun["second"].wait(10)
    threads["third"].start()
    assert begun["third"].wait(10)
    for gate in gates.values():
        gate.set()
    for thread in threads.values():
        thread.join(10)
