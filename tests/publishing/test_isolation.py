"""The process of a verification has no secret and no network; where it cannot be cut off from one, that is told."""

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

import qtoolkit as qt
from qtoolkit.publishing import launcher
from qtoolkit.publishing.environment import model_environment
from qtoolkit.publishing.process import run_behaviour
from qtoolkit.records import Verification
from tests.publishing.test_behaviour import request

pytestmark = pytest.mark.slow

SECRETS = {
    "HF_TOKEN": "hf_" + "S" * 34,
    "HUGGING_FACE_HUB_TOKEN": "hf_" + "S" * 34,
    "AWS_ACCESS_KEY_ID": "AKIA" + "S7" * 8,
    "AWS_SECRET_ACCESS_KEY": "planted",
    "AWS_PROFILE": "planted",
    "GOOGLE_APPLICATION_CREDENTIALS": "/planted.json",
    "AZURE_STORAGE_CONNECTION_STRING": "AccountKey=planted",
    "DATABASE_URL": "postgres://me:planted@db/x",
    "PGPASSWORD": "planted",
    "MONGO_URI": "mongodb://me:planted@db",
    "HTTPS_PROXY": "http://me:planted@proxy:3128",
    "ALL_PROXY": "socks5://me:planted@proxy",
    "PIP_INDEX_URL": "https://me:planted@pypi.example/simple",
    "WANDB_API_KEY": "planted",
    "OPENAI_API_KEY": "planted",
    "SSH_AUTH_SOCK": "/planted.sock",
    "MY_OWN": "planted",
    # Names that are needed, with values that are not.
    "TORCH_MIRROR": "https://me:planted@mirror.example",
    "CUDA_API_KEY": "planted",
    "LANG": "hf_" + "S" * 34,
}
NEEDED = {
    "PATH": "/usr/bin",
    "HOME": "/home/ann",
    "LC_ALL": "C.UTF-8",
    "OMP_NUM_THREADS": "3",
    "MKL_CBWR": "AVX2",
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "CUDA_VISIBLE_DEVICES": "1",
    "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
    "TOKENIZERS_PARALLELISM": "false",
    "LD_LIBRARY_PATH": "/usr/lib64-nvidia",
    "HF_HOME": "/data/hf",
    "PYTHONHASHSEED": "0",
}


def test_only_what_is_needed_is_handed_on() -> None:
    found = model_environment(SECRETS | NEEDED, with_qtoolkit=False)
    ours = {name: found.pop(name) for name in list(found) if name not in SECRETS | NEEDED}
    assert found == NEEDED
    assert ours.keys() == {
        *("HF_HUB_OFFLINE", "HF_HUB_DISABLE_IMPLICIT_TOKEN", "HF_HUB_DISABLE_PROGRESS_BARS"),
        *("HF_TOKEN_PATH", "USE_HUB_KERNELS"),
    }


@pytest.fixture
def listening() -> Iterator[dict[str, Any]]:
    """Addresses that this process listens at: on the loopback interface, and under an abstract name."""
    with socket.create_server(("127.0.0.1", 0)) as inet, socket.socket(socket.AF_UNIX) as unix:
        unix.bind(f"\0qtoolkit-test-{os.getpid()}")
        unix.listen()
        yield {"AF_INET": inet.getsockname(), "AF_UNIX": f"\0qtoolkit-test-{os.getpid()}"}


# Python runs this at its start: it shows from within what the process has and reaches at its end.
SPY = """
import atexit, json, os, socket, sys
def reaches(family, address):
    with socket.socket(getattr(socket, family)) as one:
        one.settimeout(5)
        return one.connect_ex(tuple(address) if isinstance(address, list) else address) == 0
def read(file):
    try:
        return open(file, "rb").read(50)
    except OSError:
        return b""
def tell():
    import huggingface_hub
    seen = {"qtoolkit": "qtoolkit" in sys.modules, "token": huggingface_hub.get_token(),
            "offline": huggingface_hub.constants.HF_HUB_OFFLINE, "user": os.getuid(),
            "parent": len(read(f"/proc/{os.getppid()}/environ")),
            "secrets": [name for name, value in os.environ.items() if "planted" in value or "SSSS" in value],
            "reached": [family for family, address in json.loads(LISTENING).items() if reaches(family, address)]}
    with open(SPY_FILE, "w") as file:
        json.dump(seen, file)
if any("behaviour.py" in argument for argument in sys.orig_argv):
    atexit.register(tell)
"""
# As seccomp does it in Docker and Colab.
REFUSING = """
import ctypes
class Refusing(ctypes.CDLL):
    def unshare(self, flags):
        ctypes.set_errno(1)
        return -1
ctypes.CDLL = Refusing
"""


def spied(place: Path, listening: dict[str, Any], more: str = "") -> Path:
    """Let each Python that starts with PYTHONPATH=`place` tell in the file that is returned."""
    seen = place / "seen.json"
    names = f"SPY_FILE, LISTENING = {str(seen)!r}, {json.dumps(listening)!r}\n"
    (place / "sitecustomize.py").write_text(names + SPY + more)
    return seen


def test_the_process_has_no_qtoolkit_no_secret_and_no_network(
    made: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, listening: dict[str, Any]
) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    (tmp_path / "token").write_text("hf_" + "F" * 34)
    seen = spied(tmp_path, listening)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found, problem = run_behaviour(request(made["nf4"]))
    assert found is not None, problem
    assert found["model"] == "LlamaForCausalLM"
    inside = json.loads(seen.read_text())
    # To root, who gives up what it may do besides, or in a namespace of its own; elsewhere it is told.
    assert inside.pop("parent") == 0 or (found["network_open"] and os.getuid() != 0)
    # Where the kernel gives no namespace, it is told, and both are reached.
    assert inside.pop("reached") == (["AF_INET", "AF_UNIX"] if found["network_open"] else [])
    assert inside == {"qtoolkit": False, "token": None, "offline": True, "user": os.getuid(), "secrets": []}


def test_where_unshare_is_refused_a_row_says_so(
    made: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, listening: dict[str, Any]
) -> None:
    seen = spied(tmp_path, listening, REFUSING)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    verification = qt.verify(made["nf4"])
    assert json.loads(seen.read_text())["reached"] == ["AF_INET", "AF_UNIX"]
    assert verification.passed, str(verification)
    assert "\n  network  " in str(verification) and "not blocked  (Operation not permitted)" in str(verification)
    assert verification.network_open == "Operation not permitted"
    # It is no check of the model: those are the same everywhere.
    assert "network" not in [check.name for check in verification.checks]


def test_where_the_network_is_blocked_there_is_no_row() -> None:
    assert "network" not in str(Verification("x", ()))


CONNECT = """
import json, os, socket, sys
family, address = json.loads(sys.argv[1])
one = socket.socket(getattr(socket, family))
one.settimeout(5)
print(json.dumps([one.connect_ex(tuple(address) if isinstance(address, list) else address) == 0, os.getuid()]))
"""


PYTHON = "/usr/bin/python3"


@pytest.mark.skipif(
    sys.platform != "linux" or os.getuid() != 0 or not Path(PYTHON).exists(),
    reason="root alone becomes somebody else, who needs a Python that is everybody's",
)
def test_who_is_not_root_leaves_the_network_too(listening: dict[str, Any]) -> None:
    nobody = 65534
    with TemporaryDirectory() as folder:
        os.chown(folder, nobody, nobody)
        place = Path(folder)
        shutil.copy(launcher.__file__, place / "launcher.py")
        (place / "connect.py").write_text(CONNECT)
        address = json.dumps(["AF_INET", listening["AF_INET"]])
        done = subprocess.run(
            [PYTHON, "-P", place / "launcher.py", place / "report", str(os.getpid()), place / "connect.py", address],
            capture_output=True,
            text=True,
            check=False,
            user=nobody,
            cwd=place,
        )
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout) == [bool((place / "report").read_text()), nobody]
