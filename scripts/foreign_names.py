"""Names of methods and formats where they do not belong: `python scripts/foreign_names.py [FOLDER]`.

Prints "file:line name: where it stands" for each identifier and string literal, docstrings and comments aside, outside
the packages of methods, formats and kernels; with `--count`, how many there are in each file.
"""

import argparse
import ast
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

WINGS = ("methods", "formats", "kernels")
# Methods, formats, who writes or reads them, and what only one format calls its tensors.
NAMES = (
    *("gptq", "nf4", "fp4", "int8", "absmax", "zero_?point", "awq", "hqq", "fp8", "mlx"),
    *("bitsandbytes", "bnb", "auto_?gptq", "gptqmodel", "optimum", "compressed[_-]?tensors", "marlin", "exllama"),
    *("qweight", "qzeros", "g_idx", "quant_state", "linear[48]bit"),
)
# A name may be a part of another one, as a word of its own: `_gptq_problems`, `GPTQLinear`, "*.qweight".
_FOUND = re.compile(rf"(?<![a-z])(?:{'|'.join(NAMES)})(?![a-z])")
# What also means something else: a type of torch or ctypes, and as an identifier what is added to codes.
_TYPES = ("int8", "uint8", "c_int8")
_OFFSET = re.compile("_?(?:zero_points?|ZERO_POINTS?)")
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def names_in(text: str) -> list[str]:
    """The names that stand in an identifier or a literal, in the order in which they do."""
    # gptqLinear, GPTQLinear -> gptq_linear; a number stays with its letters.
    apart = re.sub(r"(?<=[a-z0-9])(?=[A-Z][a-z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", text).lower()
    return _FOUND.findall(apart)


def texts_in(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """All identifiers and literals with the numbers of their lines."""
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, _DOCUMENTED) and ast.get_docstring(node) is not None and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        line = getattr(node, "lineno", 0)
        if (
            isinstance(node, ast.Attribute)
            and node.attr in _TYPES
            and getattr(node.value, "id", "") in ("torch", "np", "ctypes")
        ):
            continue
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield line, node.value
        # What a node is called: variables, attributes, functions, classes, arguments, imported names.
        for field in ("id", "attr", "name", "asname", "arg", "module"):
            value = getattr(node, field, None)
            if isinstance(value, str) and not _OFFSET.fullmatch(value):
                yield line, value


def foreign_names(folder: Path) -> Iterator[tuple[Path, int, str, str]]:
    """Each name outside the wings: its file, its line, the name, and the text that it stands in."""
    for file in sorted(folder.rglob("*.py")):
        inner = file.relative_to(folder)
        if inner.parts[0] not in WINGS:
            tree = ast.parse(file.read_text(encoding="utf-8"))
            for line, text in sorted(texts_in(tree)):
                for name in names_in(text):
                    yield inner, line, name, " ".join(text.split())


def main() -> None:
    """Print the list, or the count of each file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=Path(__file__).parent.parent / "qtoolkit")
    parser.add_argument("--count", action="store_true")
    given = parser.parse_args()
    found = list(foreign_names(given.folder))
    if given.count:
        for file, number in Counter(file for file, *_ in found).most_common():
            print(f"{number:5} {file}")
        print(f"{len(found):5} in {len({file for file, *_ in found})} files")
    else:
        for file, line, name, text in found:
            print(f"{file}:{line} {name}: {text:.80}")


if __name__ == "__main__":
    main()
