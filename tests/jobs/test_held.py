"""A worker keeps what a task made for the next task of the same job, and lets it go for another job's."""

import pytest

from qtoolkit.jobs.held import Held


@pytest.fixture
def closed() -> list[str]:
    """What was let go, in its order."""
    return []


@pytest.fixture
def held(closed: list[str]) -> Held[str]:
    """What holds the block of a first job."""
    held = Held(closed.append)
    assert held.get("first job", lambda: "a block") == "a block"
    return held


def test_the_next_task_of_a_job_gets_what_is_there(held: Held[str], closed: list[str]) -> None:
    assert held.get("first job", lambda: "another block") == "a block"
    assert closed == []


def test_another_job_gets_its_own_and_what_was_there_is_let_go(held: Held[str], closed: list[str]) -> None:
    assert held.get("second job", lambda: "its block") == "its block"
    assert closed == ["a block"]


def test_a_job_that_ended_leaves_nothing(held: Held[str], closed: list[str]) -> None:
    held.forget("another job")
    assert closed == []
    held.forget("first job")
    assert closed == ["a block"]
    assert held.get("first job", lambda: "made anew") == "made anew"


def test_what_a_task_still_uses_stays(held: Held[str], closed: list[str]) -> None:
    with held.lock:
        held.forget("first job")
    assert closed == []
