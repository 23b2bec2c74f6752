"""Jobs that are killed at random moments lose nothing, and go on to the same bytes."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_five_kills() -> None:
    script = [sys.executable, "-W", "ignore", "scripts/kill_jobs.py", "--kills", "5", "--hidden", "64", "--layers", "3"]
    run = subprocess.run(script, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    assert re.search(r"^5 kills, 0 faults", run.stdout, re.MULTILINE)
