"""The doctor's record: what runs here, in one sentence first."""

from dataclasses import replace

import pytest

from qtoolkit.records import Doctor

pytestmark = pytest.mark.once

WELL = Doctor({}, "Linux", ("CPU",), 8_000_000_000, 16_000_000_000, {"/": 5}, {"nf4": "ready", "gptq": "ready"})


def test_what_runs_and_what_does_not_is_told_in_one_sentence_first() -> None:
    assert WELL.headline() == "2 of 2 methods run here. 8.0 GB of memory can be used."
    lacking = replace(WELL, methods={"nf4": "pip install bitsandbytes", "gptq": "ready"})
    said = "1 of 2 methods run here; nf4 not yet: below stands what to install. 8.0 GB of memory can be used."
    assert lacking.headline() == said
