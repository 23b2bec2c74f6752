"""Packages that a user may not have, and packages that are watched until somebody imports them."""

import importlib
import importlib.util
import inspect
import sys
import tomllib
from collections.abc import Iterator
from importlib.machinery import SourceFileLoader
from importlib.resources import files
from pathlib import Path
from types import ModuleType

import pytest

from qtoolkit import optional as rooms
from qtoolkit.errors import MissingDependencyError
from qtoolkit.optional import REQUIREMENTS, is_installed, optional, when_imported


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of packages that can be imported; watchers and modules are gone afterwards."""
    monkeypatch.syspath_prepend(tmp_path)
    # Compiled code is told from newer text by seconds and size, which two texts here may share.
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    finders, modules = list(sys.meta_path), set(sys.modules)
    yield tmp_path
    sys.meta_path[:] = finders
    for name in set(sys.modules) - modules:
        del sys.modules[name]


def write(folder: Path, name: str, text: str = "value = 1\n") -> str:
    *parents, module = name.split(".")
    for number in range(len(parents)):
        package = folder.joinpath(*parents[: number + 1])
        package.mkdir(exist_ok=True)
        (package / "__init__.py").touch()
    folder.joinpath(*parents, f"{module}.py").write_text(text)
    importlib.invalidate_caches()
    return name


def watch(name: str) -> list[ModuleType]:
    """Modules that were there each time that the watcher called back."""
    called: list[ModuleType] = []
    when_imported(name, lambda: called.append(sys.modules[name]))
    return called


@pytest.mark.parametrize("name", ["plain", "package.inner", "package.deep.inner"])
def test_a_module_imported_later_calls_back_once_it_has_run(packages: Path, name: str) -> None:
    write(packages, name)
    called = watch(name)
    assert called == []
    assert name not in sys.modules
    module = importlib.import_module(name)
    assert called == [module]
    assert module.value == 1
    importlib.import_module(name)
    importlib.reload(module)
    assert called == [module]


def test_a_module_imported_before_calls_back_at_once(packages: Path) -> None:
    module = importlib.import_module(write(packages, "plain"))
    assert watch("plain") == [module]


def test_two_watchers_of_one_module_are_both_called(packages: Path) -> None:
    write(packages, "plain")
    first, second = watch("plain"), watch("plain")
    module = importlib.import_module("plain")
    assert (first, second) == ([module], [module])


def test_nothing_stays_behind(packages: Path) -> None:
    before = list(sys.meta_path)
    watch(write(packages, "plain"))
    module = importlib.import_module("plain")
    assert sys.meta_path == before
    assert "exec_module" not in vars(module.__loader__)


def test_other_modules_are_found_as_ever(packages: Path) -> None:
    watch("plain")
    assert importlib.import_module(write(packages, "other")).value == 1
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        importlib.import_module("no_such_module")


def test_the_module_and_its_loader_are_what_they_are_without_a_watcher(packages: Path) -> None:
    write(packages, "package.inner", "def double(x):\n    return 2 * x\n")
    (packages / "package" / "data.txt").write_text("data")
    watch("package.inner")
    inner = importlib.import_module("package.inner")
    assert type(inner.__loader__) is SourceFileLoader
    assert type(inner.__spec__.loader) is SourceFileLoader
    assert inner.__file__ == str(packages / "package" / "inner.py")
    assert inspect.getsource(inner.double) == "def double(x):\n    return 2 * x\n"
    assert (files("package") / "data.txt").read_text() == "data"


def test_looking_a_module_up_is_no_import(packages: Path) -> None:
    called = watch(write(packages, "plain"))
    for _ in range(2):
        spec = importlib.util.find_spec("plain")
        assert spec is not None
        assert spec.name == "plain"
    assert called == []
    assert called == [] != [importlib.import_module("plain")] == called


def test_a_module_that_fails_to_import_is_waited_for(packages: Path) -> None:
    called = watch(write(packages, "plain", "raise RuntimeError('broken')\n"))
    with pytest.raises(RuntimeError, match="broken"):
        importlib.import_module("plain")
    assert called == []
    assert "plain" not in sys.modules
    write(packages, "plain", "value = 'now it is repaired'\n")
    module = importlib.import_module("plain")
    assert called == [module]


def test_a_module_that_is_not_there_yet_is_waited_for(packages: Path) -> None:
    called = watch("plain")
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("plain")
    module = importlib.import_module(write(packages, "plain"))
    assert called == [module]


@pytest.fixture
def extra(packages: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setitem(REQUIREMENTS, "package_of_an_extra", "package-of-an-extra>=2")
    return "package_of_an_extra"


def test_a_package_that_is_there_is_imported(packages: Path, extra: str) -> None:
    write(packages, extra)
    assert is_installed(extra)
    assert extra not in sys.modules
    assert optional(extra, "method 'x'") is sys.modules[extra]
    assert is_installed(extra)


def test_a_package_that_is_missing_is_told_with_what_installs_it(extra: str) -> None:
    assert not is_installed(extra)
    with pytest.raises(MissingDependencyError) as caught:
        optional(extra, "method 'x'")
    assert str(caught.value) == (
        f"method 'x' needs the package {extra}, which is not installed: run `pip install 'package-of-an-extra>=2'`"
    )
    assert isinstance(caught.value.__cause__, ImportError)


@pytest.mark.parametrize("raised", ["ImportError", "OSError", "RuntimeError", "AttributeError"])
def test_a_package_that_does_not_import_is_told_with_the_reason(packages: Path, extra: str, raised: str) -> None:
    """A library of the system that is missing shows up as any error."""
    write(packages, extra, f"raise {raised}('libx.so: cannot open\\nshared object')\n")
    assert is_installed(extra)
    with pytest.raises(MissingDependencyError) as caught:
        optional(extra, "method 'x'")
    assert str(caught.value) == (
        f"method 'x' needs the package {extra}, which does not import (libx.so: cannot open): "
        "run `pip install 'package-of-an-extra>=2'`"
    )


def test_a_module_of_a_package_is_imported_or_told_with_what_installs_the_package(packages: Path, extra: str) -> None:
    with pytest.raises(
        MissingDependencyError, match=rf"the package {extra}, which is not installed: .*'package-of-an-"
    ):
        optional(f"{extra}.part", "method 'x'")
    write(packages, f"{extra}.part")
    assert optional(f"{extra}.part", "method 'x'") is sys.modules[f"{extra}.part"]


def test_a_package_whose_import_is_forbidden_is_missing(extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, extra, None)
    assert not is_installed(extra)
    with pytest.raises(MissingDependencyError, match="which is not installed"):
        optional(extra, "method 'x'")


def test_what_is_to_be_installed_is_what_the_extras_install() -> None:
    project = tomllib.loads((Path(rooms.__file__).parent.parent / "pyproject.toml").read_text())["project"]
    extras = {line for lines in project["optional-dependencies"].values() for line in lines}
    assert set(REQUIREMENTS.values()) <= extras
