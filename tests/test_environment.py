"""environment.yml asks for what pyproject.toml says; conda itself is not run."""

import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
CONDA = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))["dependencies"]


def test_python_is_one_that_the_package_takes() -> None:
    (python,) = [Requirement(one) for one in CONDA if isinstance(one, str) and one.startswith("python")]
    minors = [f"3.{minor}" for minor in range(8, 20)]
    taken = [one for one in minors if one in python.specifier]
    named = [line.rpartition(" ")[2] for line in PROJECT["classifiers"] if line.startswith("Programming Language")]
    assert taken == named
    assert taken[0] == min(one for one in minors[3:] if one in SpecifierSet(PROJECT["requires-python"]))


def test_pip_installs_the_checkout_and_jupyterlab_as_tests_have_it() -> None:
    (lines,) = [one["pip"] for one in CONDA if isinstance(one, dict)]
    package, *others = lines
    assert package == "-e .[all]" and "all" in PROJECT["optional-dependencies"]
    assert set(others) <= set(PROJECT["optional-dependencies"]["dev"])
