"""What runs with one set of versions alone would see nothing else with the other."""

import ast
import re
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
# What tests that run once may import, with the name of its package: the same version in both sets.
SAME = ("torch", "safetensors", "pytest", "hypothesis")
# In neither set: an environment of its own has it.
ELSEWHERE = {"triton"}
# A layer of transformers', which is a weight and a bias.
PLAIN_LAYERS = "transformers.pytorch_utils"
# Fixtures for many folders that import none of the other packages.
PLAIN_FIXTURES = {"device", "older_processor", "newer_processor", "each_processor"}
ONCE = [
    file
    for file in sorted((ROOT / "tests").rglob("test_*.py"))
    if "\npytestmark = pytest.mark.once\n" in file.read_text()
]


def version_of(package: str, lock: str) -> str:
    (found,) = re.findall(rf"^{package}==(\S+)", (ROOT / "constraints" / lock).read_text(), re.MULTILINE)
    return str(found)


@cache
def tree_of(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def file_of(module: str) -> Path | None:
    """The file of one of our modules."""
    path = ROOT.joinpath(*module.split("."))
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)


@cache
def imported(file: Path) -> set[str]:
    """The modules that a file imports, wherever it does; `a.b` for `from a import b` where `b` is a module of ours."""
    names: set[str] = set()
    for node in ast.walk(tree_of(file)):
        if isinstance(node, ast.ImportFrom):
            modules = (f"{node.module}.{alias.name}" for alias in node.names)
            names |= {module if file_of(module) else str(node.module) for module in modules}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return names


def others(test: Path) -> set[str]:
    """The packages of others that a test and all of ours that it imports may import."""
    packages: set[str] = set()
    seen: set[Path] = set()
    waiting = [test]
    while waiting:
        file = waiting.pop()
        if file not in seen:
            seen.add(file)
            for module in imported(file) - {PLAIN_LAYERS}:
                ours = file_of(module)
                if ours is not None:
                    waiting.append(ours)
                else:
                    packages.add(module.partition(".")[0])
    return packages - sys.stdlib_module_names - ELSEWHERE


def fixtures(test: Path) -> set[str]:
    """The names of the fixtures that a test's folder and those above it share among their files."""
    files = [folder / "conftest.py" for folder in test.parents if folder.is_relative_to(ROOT)]
    nodes = [node for file in files if file.exists() for node in tree_of(file).body]
    functions = [node for node in nodes if isinstance(node, ast.FunctionDef)]
    return {node.name for node in functions if any("fixture" in ast.unparse(one) for one in node.decorator_list)}


def test_packages_of_tests_that_run_once_are_the_same_in_both_sets() -> None:
    for package in SAME:
        assert version_of(package, "ci.txt") == version_of(package, "colab.txt")
    for package in ELSEWHERE:
        assert not any(
            f"\n{package}==" in (ROOT / "constraints" / lock).read_text() for lock in ("ci.txt", "colab.txt")
        )


def test_all_but_what_needs_a_browser_is_collected_with_colabs_versions() -> None:
    assert re.findall(r"--ignore (\S+)", MAKEFILE) == ["tests/browser"]


def test_all_tests_of_kernels_run_once() -> None:
    assert set((ROOT / "tests" / "kernels").glob("test_*.py")) <= set(ONCE)


@pytest.mark.parametrize("file", ONCE, ids=lambda file: str(file.relative_to(ROOT / "tests")))
def test_what_runs_once_imports_nothing_that_differs(file: Path) -> None:
    assert others(file) <= set(SAME)
    arguments = {node.arg for node in ast.walk(tree_of(file)) if isinstance(node, ast.arg)}
    assert arguments & fixtures(file) <= PLAIN_FIXTURES


def test_what_differs_is_seen_through_our_own_modules() -> None:
    assert {"transformers", "huggingface_hub", "IPython"} <= others(ROOT / "tests" / "test_public_api.py")
    assert {"smollm2", "shell"} <= fixtures(ROOT / "tests" / "notebook" / "test_kernel.py")
