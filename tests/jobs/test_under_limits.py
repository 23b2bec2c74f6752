"""Under `ulimit -v` and `ulimit -d` each verb ends well or in one line of ours: no bare MemoryError, no crash."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def outcomes(tiny_llama: Path) -> Mapping[tuple[str, str, int], tuple[str, str]]:
    """(limit, verb, MB left) -> what came of it, and its message."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "tests.jobs.under_limits", str(tiny_llama)]
    ran = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True, timeout=600)
    found = json.loads(ran.stdout.splitlines()[-1])
    return {(kind, verb, room): (outcome, text) for kind, verb, room, outcome, text in found}


def test_each_ends_well_or_in_one_line(outcomes: Mapping[tuple[str, str, int], tuple[str, str]]) -> None:
    assert len(outcomes) > 20
    wrong = {case: came for case, came in outcomes.items() if came[0] not in ("done", "refused")}
    assert wrong == {}
    for _, text in outcomes.values():
        assert len(text.splitlines()) <= 1


def test_with_nothing_left_each_is_refused(outcomes: Mapping[tuple[str, str, int], tuple[str, str]]) -> None:
    for (_, _, room), (outcome, text) in outcomes.items():
        if room == 0:
            assert outcome == "refused" and ("memory" in text)


def test_with_plenty_each_is_done(outcomes: Mapping[tuple[str, str, int], tuple[str, str]]) -> None:
    assert {came for (_, _, room), came in outcomes.items() if room == 3000} == {("done", "")}


def test_the_limit_is_named(outcomes: Mapping[tuple[str, str, int], tuple[str, str]]) -> None:
    """Where enough is left to ask for it."""
    named = [text for (kind, _, room), (_, text) in outcomes.items() if kind == "addresses" and room == 200 and text]
    assert named and all("ulimit -v" in text for text in named)
