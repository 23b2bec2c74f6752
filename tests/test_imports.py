"""What is private stays in its package, a package with a face is entered by it, and a file's name stands once."""

import ast
from collections import Counter, defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

pytestmark = pytest.mark.once

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "qtoolkit"
FILES = sorted(PACKAGE.rglob("*.py"))
# What a file is in a package of several of its kind: `formats/gptq/reader.py` reads GPTQ's.
OF_EACH_KIND = {"__init__", "base", "config", "loader", "reader", "tensors"}
# Packages of tools have no face: a name is imported from its file. Modules imported past the face of a package that has
# one, each with the reason.
DEFAULT_FORMAT = "a method knows the format that it writes by default, which nobody else does"
TYPES = "what type checkers know of `qt`: at run time its names come by the face"
TORCH = "imports torch, which plans and the registry do without"
PAST_A_FACE = {
    **dict.fromkeys(
        (
            "methods.affine_config",
            "methods.bitsandbytes",
            "methods.block_rounding",
            "methods.eight_bits",
            "methods.gptq",
        ),
        TYPES,
    ),
    **dict.fromkeys(("formats.bitsandbytes", "formats.native.tensors"), DEFAULT_FORMAT),
    **dict.fromkeys(("formats.gptq.config", "formats.gptq.stored_layers", "formats.gptq.tensors"), DEFAULT_FORMAT),
    **dict.fromkeys(
        ("formats.layer_codes", "formats.recoding", "formats.stored_layer", "formats.stored_reader"), TORCH
    ),
    "notebook.panels": "imports ipywidgets, which magics do without",
    "records.html": "one drawing is a panel's too",
    "records.markdown": "the card writes tables as records do",
}


def module_of(file: Path) -> str:
    """A file's module, without the name of the package itself."""
    return ".".join(file.relative_to(PACKAGE).with_suffix("").parts).removesuffix("__init__").removesuffix(".")


MODULES = {module_of(file) for file in FILES} - {""}


@cache
def tree_of(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def exports(init: Path) -> set[str]:
    """The names of a package's `__all__`; none where it has no face."""
    for node in tree_of(init).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return set(ast.literal_eval(node.value))
    return set()


FACES = {module_of(file): exports(file) for file in FILES if file.name == "__init__.py"}


def imports(file: Path) -> Iterator[tuple[str, str]]:
    """Every import of ours in a file: the module, and the name that is taken from it; no name for a whole module."""
    for node in ast.walk(tree_of(file)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names if alias.name.startswith("qtoolkit."))
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("qtoolkit"):
            module = str(node.module).removeprefix("qtoolkit").removeprefix(".")
            for name in (alias.name for alias in node.names):
                inner = f"{module}.{name}".removeprefix(".")
                yield (inner, "") if inner in MODULES and name not in FACES.get(module, ()) else (module, name)


def entered(module: str, file: Path) -> Iterator[str]:
    """The packages that an import of a module enters, from the outermost: those that its file does not stand in."""
    parts = module.split(".")
    for length in range(1, len(parts)):
        if not file.is_relative_to(PACKAGE.joinpath(*parts[:length])):
            yield ".".join(parts[:length])


def test_nothing_private_is_imported_from_elsewhere() -> None:
    private = defaultdict(set)
    for file in FILES:
        for module, name in imports(file):
            inner = [module.removeprefix(f"{package}.") for package in entered(module, file)]
            if any(one.startswith("_") for one in (*inner, name)) and not name.startswith("__"):
                private[module_of(file)].add(f"{module} {name}")
    assert private == {}


def test_a_package_with_a_face_is_entered_by_it() -> None:
    past = defaultdict(set)
    for file in FILES:
        for module, name in imports(file):
            if any(FACES[package] for package in entered(module, file)) and module not in PAST_A_FACE:
                past[module_of(file)].add(f"{module} {name}")
    assert past == {}


def test_what_may_be_imported_past_a_face_is_there() -> None:
    assert set(PAST_A_FACE) <= MODULES


def test_a_file_name_stands_once() -> None:
    counted = Counter(file.stem for file in FILES if file.stem not in OF_EACH_KIND)
    assert {name for name, count in counted.items() if count > 1} == set()
