"""A name that anybody gave moves no cursor and turns no letters round, in errors, records and progress."""

import pytest

from qtoolkit.errors import CheckpointError
from qtoolkit.notebook.progress import TextProgress
from qtoolkit.records import Check, ProgressEvent, Verification

ODD = "a\x1b[2J\x07\u202eb\u2028c"
SHOWN = r"a\x1b[2J\x07\u202eb\u2028c"


def test_an_error() -> None:
    assert str(CheckpointError(f"{ODD}\nd")) == rf"{SHOWN}\nd"


def test_a_record() -> None:
    record = Verification(ODD, (Check("config", False, ODD, ODD),))
    # In the sentence and in the rows; HTML lists what failed once more, before what is folded.
    for text, times in ((str(record), 4), (repr(record), 4), (record._repr_html_(), 6)):
        assert text.count(SHOWN) == times
        assert ODD not in text


def test_progress(capsys: pytest.CaptureFixture[str]) -> None:
    TextProgress("title")(ProgressEvent("load", 1, 2, "layers", ODD))
    assert SHOWN in capsys.readouterr().out
