"""No name of a method or a format stands outside its own wing."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import qtoolkit as qt

PACKAGE = Path(__file__).parent.parent / "qtoolkit"
WINGS = ("methods", "formats", "kernels")
# Public names, names of packages, what files of other programs look like, by which they are refused by name, and the
# table of which program reads what.
EXCEPTIONS = (
    "__init__.py",
    "optional.py",
    "checkpoints/coded_tensors.py",
    "checkpoints/other_programs.py",
    "checkpoints/source_codes.py",
    "models/foreign_codes.py",
    "readers/eight_bits_table.py",
    "readers/floats_table.py",
    "readers/gptq_table.py",
    "readers/other_tables.py",
    "readers/packed_table.py",
    "readers/programs.py",
    "readers/shared_limits.py",
    "readers/table.py",
)
ALLOWED = {
    # The `quant_method` of checkpoints of other programs.
    "checkpoints/coded_tensors.py": {"fp8"},
    "checkpoints/source_codes.py": {"fp8"},
    # The default method.
    "notebook/body.py": {"nf4"},
    # Early files of AutoGPTQ name no method: the name of the file tells it.
    "checkpoints/folder.py": {"gptq"},
    # What inputs are rounded to.
    "readers/stored.py": {"int8"},
}
# A `.gguf` file is a source too, whether or not something was quantized into one.
NAMES = {*qt.available_methods(), *qt.available_formats()} - {"native", "gguf"}
# What the field calls so whatever the method: a type, a tensor, a way of rounding. They count as whole texts alone.
WORDS_OF_THE_FIELD = {"fp8", "int8", "zero_point", "absmax"}
# As words of an identifier or a text: `quiet_bitsandbytes`, "gptq".
WORD = re.compile(rf"(?<![a-z0-9])({'|'.join(sorted(NAMES - WORDS_OF_THE_FIELD))})(?![a-z0-9])", re.IGNORECASE)


def outside() -> list[Path]:
    files = (file.relative_to(PACKAGE) for file in sorted(PACKAGE.rglob("*.py")))
    return [file for file in files if file.parts[0] not in WINGS and str(file) not in EXCEPTIONS]


def names_in(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Identifiers and texts of a file that name a method or a format, with their lines; docstrings aside."""
    docstrings = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.body:
            first = node.body[0]
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                docstrings.add(first.value)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in docstrings:
            if WORD.search(node.value) or node.value in WORDS_OF_THE_FIELD:
                yield node.lineno, node.value
            continue
        for field in ("id", "attr", "name", "arg", "module"):
            value = getattr(node, field, None)
            if isinstance(value, str) and WORD.search(value):
                yield getattr(node, "lineno", 0), value


@pytest.mark.parametrize("file", outside(), ids=str)
def test_no_method_or_format_is_named(file: Path) -> None:
    tree = ast.parse((PACKAGE / file).read_text(encoding="utf-8"))
    found = {text for _, text in names_in(tree)} - ALLOWED.get(str(file), set())
    assert found == set()
