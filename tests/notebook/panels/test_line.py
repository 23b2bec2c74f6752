"""The line of `%qpanel`: a model and an option, in any order."""

import pytest

from qtoolkit.errors import ConfigError
from qtoolkit.notebook.lines import read_line

LINES = {
    "": ("", None),
    "org/model": ("org/model", None),
    "'my folder' --only plan": ("my folder", "plan"),
    "--only plan org/model": ("org/model", "plan"),
    "--only=plan": ("", "plan"),
}


@pytest.mark.parametrize(("line", "request_"), LINES.items(), ids=LINES)
def test_it_is_read(line: str, request_: tuple[str, str | None]) -> None:
    given = read_line("qpanel", line)
    assert ("".join(given.words), given.options.get("only")) == request_


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("--olny plan", "%qpanel has no option --olny: did you mean --only. its options are --only, --debug"),
        ("org/model --olny plan", "%qpanel has no option --olny"),
        ("my folder", "expected one MODEL, got also 'folder': put quotes around a path that has blanks in it"),
    ],
)
def test_what_is_wrong_is_told(line: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        read_line("qpanel", line)
