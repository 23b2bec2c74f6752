"""Download the wheels of programs, unpack their sources, and read what these say."""

import ast
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any


def literal(root: Path, file: str, name: str) -> Any:
    """The value that a module or a class of it assigns to a name: a list, or the keys of a dict."""
    tree = ast.parse((root / file).read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if any(isinstance(target, ast.Name) and target.id == name for target in targets):
            value = getattr(node, "value", None)
            if isinstance(value, ast.Dict):
                # A value may be an object, and a key that is unpacked has none.
                return [ast.literal_eval(key) for key in value.keys if key is not None]
            if isinstance(value, ast.Subscript):
                return ast.literal_eval(value.slice)
            if value is not None:
                return ast.literal_eval(value)
    raise LookupError(f"{name} is not assigned in {file}")


def says(root: Path, file: str, text: str) -> bool:
    """Whether a text stands in a file; blanks, quotes and the ends of lines aside."""
    source = re.sub(r'["\s]+', " ", (root / file).read_text(encoding="utf-8"))
    return re.sub(r'["\s]+', " ", text) in source


def run(root: Path, code: str) -> Any:
    """What a line of Python prints, with the packages under a folder before those that are installed."""
    return _printed(Path(sys.executable), code, {"PYTHONPATH": ":".join(map(str, sorted(root.parent.iterdir())))})


def run_in(environment: str, code: str) -> Any:
    """What a line of Python prints in an environment of `make`."""
    return _printed(python_of(environment), code, {})


def python_of(environment: str) -> Path:
    """The Python of an environment of `make`, which need not be there."""
    return Path(__file__).parent.parent / environment / "bin" / "python"


def _printed(python: Path, code: str, variables: dict[str, str]) -> Any:
    """The value that a Python prints last."""
    done = subprocess.run([str(python), "-c", code], env=variables, capture_output=True, text=True, check=False)
    if done.returncode:
        raise LookupError(done.stderr.strip().splitlines()[-1])
    return ast.literal_eval(done.stdout.strip().splitlines()[-1])


def tiles(root: Path) -> set[tuple[int, int]]:
    """The outputs and inputs of which SGLang's Marlin takes multiples: its own thread configs, the least of them."""
    source = (root / "sglang/kernels/jit/csrc/gemm/marlin/gptq_marlin.cuh").read_text(encoding="utf-8")
    lists = re.findall(r"_batch_thread_configs\[\] = \{(.*?)\};", source, re.DOTALL)
    every = [{(int(n), int(k)) for k, n in re.findall(r"\{(\d+), (\d+), \d+\}", one)} for one in lists]
    # A size that is a multiple of a larger config is one of a smaller config.
    least = [
        {
            one
            for one in own
            if not any(other != one and not one[0] % other[0] and not one[1] % other[1] for other in own)
        }
        for own in every
    ]
    return set.union(*least) if least and all(one == least[0] for one in least) else set()


def unpacked(folder: Path, package: str, wanted: str) -> tuple[str, Path]:
    """The newest version of what pip is asked for, and the folder with its Python files, which are downloaded first."""
    wheels = folder / "wheels" / package
    wheels.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--dest", str(wheels), wanted]
    subprocess.run(command, check=True)
    newest = max(wheels.iterdir(), key=lambda file: file.stat().st_mtime)
    version = newest.name.split("-")[1].removesuffix(".tar.gz")
    root = folder / "sources" / f"{package}-{version}"
    if not root.exists():
        unpack(newest, root)
    inner = root / newest.name.removesuffix(".tar.gz")
    return version, inner if inner.is_dir() else root


def unpack(archive: Path, root: Path) -> None:
    """Unpack the Python files, Marlin's CUDA and the metadata of a wheel or a source archive."""
    wanted = re.compile(r"\.py$|marlin\.cuh$|dist-info/")
    if archive.name.endswith(".whl"):
        with zipfile.ZipFile(archive) as opened:
            opened.extractall(root, [name for name in opened.namelist() if wanted.search(name)])  # noqa: S202
        return
    with tarfile.open(archive) as opened_tar:
        opened_tar.extractall(root, [member for member in opened_tar if wanted.search(member.name)], filter="data")
