"""Questions while one types: the latest is answered, none is waited for."""

import threading

from qtoolkit.errors import ConfigError
from qtoolkit.notebook.panels.background import Lookup
from qtoolkit.notebook.panels.field import error_line


def test_what_was_asked_before_is_not_shown_whatever_comes_first() -> None:
    gates = {"slow": threading.Event(), "quick": threading.Event()}
    shown: list[str] = []

    def ask(word: str) -> str:
        gates[word].wait(10)
        return word

    lookup = Lookup(ask, shown.append, shown.append, pause=0.0)
    lookup.start("slow")
    lookup.start("quick")
    gates["quick"].set()
    gates["slow"].set()
    lookup.wait()
    assert shown == ["quick"]


def test_keys_within_the_pause_are_one_question() -> None:
    asked: list[str] = []
    lookup = Lookup(asked.append, lambda answer: None, lambda problem: None, pause=0.3)
    for end in range(1, 6):
        lookup.start("smoll"[:end])
    lookup.wait()
    assert asked == ["smoll"]


def test_asking_returns_at_once() -> None:
    gate, answered = threading.Event(), threading.Event()
    lookup = Lookup(lambda: gate.wait(10), lambda answer: answered.set(), lambda problem: None, pause=0.0)
    lookup.start()
    assert not answered.is_set()
    gate.set()
    lookup.wait()
    assert answered.is_set()


def test_a_dropped_question_is_not_answered() -> None:
    shown: list[int] = []
    lookup = Lookup(lambda: 1, shown.append, lambda problem: None, pause=0.1)
    lookup.start()
    lookup.drop()
    lookup.wait()
    assert shown == []


def test_what_goes_wrong_is_told_in_one_line() -> None:
    problems: list[str] = []

    def ask(kind: type[Exception]) -> None:
        raise kind("what it was")

    lookup = Lookup(ask, problems.append, lambda error: problems.append(error_line(error)), pause=0.0)
    for kind in (ConfigError, ZeroDivisionError):
        lookup.start(kind)
        lookup.wait()
    assert problems == ["what it was", "ZeroDivisionError: what it was"]


def test_an_answer_that_cannot_be_shown_is_told_too() -> None:
    problems: list[str] = []

    def show(answer: str) -> None:
        raise KeyError(answer)

    lookup = Lookup(lambda: "answer", show, lambda error: problems.append(error_line(error)), pause=0.0)
    lookup.start()
    lookup.wait()
    assert problems == ["KeyError: 'answer'"]


def test_an_answer_may_lead_to_the_next_question() -> None:
    shown: list[int] = []

    def show(number: int) -> None:
        shown.append(number)
        if number < 3:
            lookup.start(number + 1)

    lookup = Lookup(lambda number: number, show, lambda problem: None, pause=0.0)
    lookup.start(1)
    while len(shown) < 3:
        lookup.wait()
    assert shown == [1, 2, 3]
