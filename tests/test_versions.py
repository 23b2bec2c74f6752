"""What runs with one set of versions alone would see nothing else with the other."""

import ast
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
# What tests of kernels stand on, with the name of its package: the same version in both sets.
SAME = ("torch", "safetensors", "pytest")
# A layer of transformers', which is a weight and a bias.
PLAIN_LAYERS = {"transformers.pytorch_utils"}


def version_of(package: str, lock: str) -> str:
    (found,) = re.findall(rf"^{package}==(\S+)", (ROOT / "constraints" / lock).read_text(), re.MULTILINE)
    return str(found)


def imported(folder: Path) -> set[str]:
    names = set()
    for file in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                names.add(str(node.module))
            elif isinstance(node, ast.Import):
                names.update(alias.name for alias in node.names)
    return {name for name in names if name.partition(".")[0] not in sys.stdlib_module_names}


def test_what_kernels_stand_on_is_the_same_in_both_sets() -> None:
    """So their tests run once: everything else runs with Colab's versions too, but what needs a browser."""
    assert re.findall(r"--ignore (\S+)", MAKEFILE) == ["tests/browser", "tests/kernels"]
    for package in SAME:
        assert version_of(package, "ci.txt") == version_of(package, "colab.txt")
    others = imported(ROOT / "tests" / "kernels") | imported(ROOT / "qtoolkit" / "kernels")
    assert {name.partition(".")[0] for name in others - PLAIN_LAYERS} <= {*SAME, "qtoolkit", "tests"}
