"""`import qtoolkit` and `%load_ext qtoolkit` load nothing heavy: seen in fresh processes."""

import subprocess
import sys
from functools import cache

import pytest

HEAVY = ("torch", "transformers", "huggingface_hub", "safetensors", "numpy", "bitsandbytes", "gguf", "peft")
JUPYTER = ("IPython", "ipykernel", "ipywidgets", "traitlets")

LOAD_EXT = """
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
shell.run_line_magic("load_ext", "qtoolkit")
assert "quantize" in shell.magics_manager.magics["line"]
"""


@cache
def loaded_by(code: str) -> set[str]:
    """The top-level packages that a fresh Python has loaded after running `code`."""
    report = "import sys; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    command = [sys.executable, "-W", "error", "-c", f"{code}\n{report}"]
    return set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())


@pytest.mark.parametrize("package", HEAVY + JUPYTER)
def test_import_loads_no_heavy_package(package: str) -> None:
    assert package not in loaded_by("import qtoolkit")


def test_names_of_methods_load_no_heavy_package() -> None:
    assert loaded_by("import qtoolkit; qtoolkit.available_methods()").isdisjoint(HEAVY + JUPYTER)


def test_configs_load_no_heavy_package() -> None:
    assert loaded_by("import qtoolkit; qtoolkit.NF4(), qtoolkit.AbsMax(bits=4)").isdisjoint(HEAVY + JUPYTER)


def test_load_ext_loads_no_heavy_package() -> None:
    assert loaded_by(LOAD_EXT).isdisjoint(HEAVY)


FIRST_TAB = r"""
from IPython.core.completer import provisionalcompleter
with provisionalcompleter():
    for text in ("%quantize ", "%quantize m --method gptq --", "%qplan m --machine ", "%%quantize m\nme"):
        assert list(shell.Completer.completions(text, len(text)))
"""


def test_the_first_tab_loads_no_torch() -> None:
    assert loaded_by(LOAD_EXT + FIRST_TAB).isdisjoint({"torch", "transformers", "safetensors", "numpy"})


def test_what_is_measured_here_is_really_measured() -> None:
    assert {"qtoolkit", "numpy"} <= loaded_by("import qtoolkit, numpy")
