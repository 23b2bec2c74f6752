"""Installing qtoolkit on Google Colab upgrades nothing that a running kernel has loaded.

The environment is made up: metadata of Colab's versions without the packages, which is all that pip looks at when it
decides what to install.
"""

import json
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parent.parent

# Colab's runtime of August 2026 (googlecolab/backend-info, pip-freeze.gpu.txt); bitsandbytes and gguf are not there.
COLAB = {
    "accelerate": "1.14.0",
    "datasets": "4.0.0",
    "dill": "0.3.8",
    "huggingface_hub": "1.27.0",
    "ipykernel": "6.17.1",
    "ipython": "7.34.0",
    "ipywidgets": "7.7.1",
    "jupyter_client": "7.4.9",
    # It bounds dill.
    "multiprocess": "0.70.16",
    "numpy": "2.1.3",
    "psutil": "5.9.5",
    "pyarrow": "18.1.0",
    "pyyaml": "6.0.3",
    # The least that its transformers takes: what Colab has is not known here.
    "regex": "2025.10.22",
    "safetensors": "0.8.0",
    "tokenizers": "0.22.2",
    "torch": "2.11.0+cu128",
    "traitlets": "5.7.1",
    "transformers": "5.15.0",
}


def locked(name: str) -> dict[str, str]:
    """The packages of a lock, written with underscores, with their versions."""
    lines = (ROOT / "constraints" / name).read_text(encoding="utf-8").splitlines()
    pairs = (line.split("==") for line in lines if line and not line.startswith("#"))
    return {name.replace("-", "_").lower(): version for name, version in pairs}


@pytest.fixture(scope="module")
def colab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment in which pip finds Colab's versions."""
    folder = tmp_path_factory.mktemp("colab")
    venv.create(folder, with_pip=False)
    (site,) = folder.glob("lib/python*/site-packages")
    for package, version in COLAB.items():
        metadata = site / f"{package}-{version}.dist-info" / "METADATA"
        metadata.parent.mkdir()
        metadata.write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n", encoding="utf-8")
    return folder / "bin" / "python"


def would_install(python: Path, *requirements: str) -> set[str]:
    """The names of what pip would install into the environment of `python`; nothing is installed."""
    report = python.parent / "report.json"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet"]
    # What Colab does not bring is taken in the versions that are tested: a release elsewhere changes no result here.
    pins = [
        f"{name}=={version}"
        for name, version in locked("ci.txt").items()
        if name in ("bitsandbytes", "gguf", "lm_eval")
    ]
    constraints = report.with_name("constraints.txt")
    constraints.write_text("\n".join(pins), encoding="utf-8")
    options = ["--dry-run", "--report", str(report), "--constraint", str(constraints)]
    subprocess.run([*pip, *options, *requirements], check=True)
    items = json.loads(report.read_text(encoding="utf-8"))["install"]
    return {item["metadata"]["name"].lower().replace("-", "_") for item in items}


@pytest.mark.registry
def test_nothing_of_colab_is_upgraded(colab: Path) -> None:
    installed = would_install(colab, f"{ROOT}[all,tasks]")
    assert {"qtoolkit_notebook", "bitsandbytes", "gguf", "lm_eval"} <= installed
    assert installed.isdisjoint(COLAB)


@pytest.mark.registry
def test_an_upgrade_would_be_seen(colab: Path) -> None:
    assert "psutil" in would_install(colab, "psutil>5.9.5")


def test_the_colab_lock_holds_these_versions() -> None:
    lock = locked("colab.txt")
    # CI has no CPU build of Colab's torch.
    assert {name: lock[name] for name in COLAB if name != "torch"} == {n: v for n, v in COLAB.items() if n != "torch"}


def requirements(*extras: str) -> list[Requirement]:
    """What pyproject.toml asks for at run time: the core, and the extras named."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = [*project["dependencies"], *(line for extra in extras for line in project["optional-dependencies"][extra])]
    return [Requirement(line) for line in lines]


@pytest.mark.parametrize("requirement", requirements("calibration", "notebook"), ids=lambda item: item.name)
def test_requirement_admits_colabs_version(requirement: Requirement) -> None:
    assert requirement.specifier.contains(COLAB[requirement.name])


@pytest.mark.parametrize(
    "requirement", requirements("bnb", "calibration", "gguf", "notebook", "tasks"), ids=lambda item: item.name
)
def test_floor_is_what_the_colab_lock_tests(requirement: Requirement) -> None:
    """Where Colab's environment has it: benchmark tasks run with the newest versions alone."""
    (specifier,) = requirement.specifier
    name = requirement.name.replace("-", "_")
    tested = COLAB["torch"] if name == "torch" else (locked("ci.txt") | locked("colab.txt"))[name]
    floor = Version(specifier.version).release
    assert specifier.operator == ">="
    assert Version(tested).release[: len(floor)] == floor
