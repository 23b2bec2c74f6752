"""Write into the pages what is made from code: `python -m scripts.store_docs`; tests/test_pages.py compares.

A page marks a fenced block by a comment above it: `<!-- code: FILE#NAME,NAME -->` is the source of these names of a
file, in the order of the file; `imports` is its head, up to the last import; without `#`, it is the whole file. The
paragraph below `<!-- readers: NAME -->` is what `MADE` of `scripts/reader_pages.py` has of this name, made from the
reader contract.
"""

import ast
import re
from pathlib import Path

from scripts.reader_pages import MADE

ROOT = Path(__file__).parent.parent
PAGES = ("docs/*.md",)
# What stands for the head of a file.
IMPORTS = "imports"
CODE = re.compile(
    r"(<!-- code: (?P<file>[\w/.]+)(?:#(?P<names>[\w,]+))? -->\n```python\n).*?(?=^```$)", re.DOTALL | re.MULTILINE
)

READERS = re.compile(r"(<!-- readers: (?P<name>\w+) -->\n\n).*?(?=\n\n)", re.DOTALL)


def source_of(file: Path, names: set[str]) -> str:
    """Return the source of some definitions of a file, decorators included, two lines apart; with no names, all of it.

    Raises:
        LookupError: the file defines no such name.
    """
    text = file.read_text(encoding="utf-8")
    if not names:
        return text
    lines, body, parts, missing = text.splitlines(), ast.parse(text).body, [], set(names) - {IMPORTS}
    if IMPORTS in names:
        last = max(node.end_lineno or 0 for node in body if isinstance(node, ast.Import | ast.ImportFrom))
        parts.append("\n".join(lines[:last]))
    for node in body:
        if names.intersection(defined := defined_by(node)):
            first = min([node.lineno, *(one.lineno for one in getattr(node, "decorator_list", ()))])
            parts.append("\n".join(lines[first - 1 : node.end_lineno]))
            missing -= defined
    if missing:
        raise LookupError(f"{file} defines no {', '.join(sorted(missing))}")
    return "\n\n\n".join(parts) + "\n"


def defined_by(node: ast.stmt) -> set[str]:
    """Return the names that a statement of a module defines."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return {node.name}
    targets = node.targets if isinstance(node, ast.Assign) else ()
    return {name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)}


def with_made_parts(text: str) -> str:
    """Return a page's text with each part that is made, made anew."""

    def code(match: re.Match[str]) -> str:
        names = set(filter(None, (match["names"] or "").split(",")))
        return match[1] + source_of(ROOT / match["file"], names)

    def readers(match: re.Match[str]) -> str:
        return match[1] + MADE[match["name"]]()

    return READERS.sub(readers, CODE.sub(code, text))


def main() -> None:
    """Store all pages."""
    for path in sorted(page for pattern in PAGES for page in ROOT.glob(pattern)):
        path.write_text(with_made_parts(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
