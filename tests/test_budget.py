"""Files and functions stay small enough to be read at once."""

import ast
from pathlib import Path
from statistics import median

import pytest

pytestmark = pytest.mark.once

PACKAGE = Path(__file__).parent.parent / "qtoolkit"
FILES = sorted(PACKAGE.rglob("*.py"))
MAX_FILE_LINES = 350
MAX_MEDIAN_FILE_LINES = 120
MAX_FUNCTION_LINES = 60


def num_lines(file: Path) -> int:
    return len(file.read_text(encoding="utf-8").splitlines())


def body_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function without its signature and docstring, which it shall not be short of."""
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    return (function.end_lineno or 0) - body[0].lineno + 1 if body else 0


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_file_and_its_functions_are_short(file: Path) -> None:
    assert num_lines(file) <= MAX_FILE_LINES
    tree = ast.parse(file.read_text(encoding="utf-8"))
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    lengths = {function.name: body_lines(function) for function in functions}
    assert {name: length for name, length in lengths.items() if length > MAX_FUNCTION_LINES} == {}


def test_median_file_is_short() -> None:
    assert median(num_lines(file) for file in FILES) <= MAX_MEDIAN_FILE_LINES
