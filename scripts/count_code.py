"""Count lines of code and of docstrings, in all and by package: `python scripts/count_code.py [FOLDER]`.

A line of code holds a token that is no comment and belongs to no docstring; blank lines count nowhere, neither between
statements nor in docstrings.
"""

import argparse
import ast
import io
import tokenize
from collections import Counter, defaultdict
from pathlib import Path

_NO_CODE = {
    *(tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT),
    *(tokenize.ENCODING, tokenize.ENDMARKER),
}
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def docstring_lines(tree: ast.Module) -> set[int]:
    """The numbers of all lines that docstrings take."""
    lines: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, _DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
            text = node.body[0]
            lines.update(range(text.lineno, (text.end_lineno or text.lineno) + 1))
    return lines


def code_lines(source: str) -> set[int]:
    """The numbers of all lines that hold a token, docstrings included."""
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in _NO_CODE:
            lines.update(range(token.start[0], token.end[0] + 1))
    return lines


def count(source: str) -> Counter[str]:
    """Lines of a file by kind: "code" and "docstrings"."""
    written = {number for number, line in enumerate(source.splitlines(), start=1) if line.strip()}
    told = docstring_lines(ast.parse(source)) & written
    return Counter(files=1, code=len((code_lines(source) & written) - told), docstrings=len(told))


def main() -> None:
    """Print a line for each package, and one for all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=Path(__file__).parent.parent / "qtoolkit")
    folder = parser.parse_args().folder
    packages: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for file in sorted(folder.rglob("*.py")):
        inner = file.relative_to(folder).parts
        packages[inner[0] if len(inner) > 1 else "."].update(count(file.read_text(encoding="utf-8")))
    print(f"{'package':12} {'files':>6} {'code':>7} {'docstrings':>11}")
    for name, found in [*packages.items(), ("all", sum(packages.values(), Counter[str]()))]:
        print(f"{name:12} {found['files']:6,} {found['code']:7,} {found['docstrings']:11,}")


if __name__ == "__main__":
    main()
