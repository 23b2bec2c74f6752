"""The process of a verification has no secret, no network and no other program's socket; where it has, that is told."""

import configparser
import json
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

import qtoolkit as qt
from qtoolkit.publishing import launcher
from qtoolkit.publishing.environment import model_environment
from qtoolkit.publishing.process import run_behaviour
from qtoolkit.records import Check, Verification
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
    # Where sockets are, and what makes Python or the loader do other than usual.
    "XDG_RUNTIME_DIR": "/planted",
    "DISPLAY": ":planted",
    "DBUS_SESSION_BUS_ADDRESS": "unix:path=/planted",
    "DOCKER_HOST": "unix:///planted.sock",
    "JPY_SESSION_NAME": "/planted.ipynb",
    "LD_AUDIT": "/planted.so",
    "PYTHONSTARTUP": "/planted.py",
    "PYTHONINSPECT": "planted",
    "PYTHONBREAKPOINT": "planted.it",
    "PYTHONWARNINGS": "error:planted",
    "PYTHONOPTIMIZE": "planted",
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
    "LD_PRELOAD": "/usr/lib/libtcmalloc.so.4",
    "PYTHONPATH": "/home/ann/checkout",
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


Listening = list[tuple[str, str, str, Any]]
NETWORK = ["loopback", "loopback, a datagram"]
LOCAL = ["abstract name", "path", "path, a datagram", "path, a datagram by a pair"]


def expected(network_open: str, sockets_open: str) -> list[str]:
    """What is reached where those are told: a namespace has abstract names of its own, a filter refuses connections."""
    if network_open:
        return [*NETWORK, *LOCAL] if sockets_open else NETWORK[1:]
    return LOCAL[1:] if sockets_open else []


@pytest.fixture
def listening() -> Iterator[Listening]:
    """Where this process listens, as name, family, kind and address: on the loopback interface, and as programs do."""
    with ExitStack() as opened:
        # Paths of sockets have at most a hundred letters.
        place = Path(opened.enter_context(TemporaryDirectory(dir="/tmp")))  # where X11's is
        place.chmod(0o755)
        addresses = [("AF_INET", ("127.0.0.1", 0)), ("AF_UNIX", f"\0qtoolkit-test-{os.getpid()}")]
        kinds = ["SOCK_STREAM", "SOCK_DGRAM"]
        wanted = [
            *(("loopback", *addresses[0], kinds[0]), ("loopback, a datagram", *addresses[0], kinds[1])),
            *(("abstract name", *addresses[1], kinds[0]), ("path", "AF_UNIX", str(place / "one"), kinds[0])),
            ("path, a datagram", "AF_UNIX", str(place / "other"), kinds[1]),
        ]
        told: Listening = []
        for name, family, address, kind in wanted:
            one = opened.enter_context(socket.socket(getattr(socket, family), getattr(socket, kind)))
            one.bind(address)
            if isinstance(address, str) and not address.startswith("\0"):
                Path(address).chmod(0o777)
            if kind == "SOCK_STREAM":
                one.listen()
            told.append((name, family, kind, one.getsockname() if family == "AF_INET" else address))
        yield [*told, ("path, a datagram by a pair", "pair", "SOCK_DGRAM", str(place / "other"))]


# Python runs this at its start: it shows from within what the process has and reaches at its end.
SPY = """
import atexit, json, os, socket, sys
def reaches(family, kind, address):
    kind = getattr(socket, kind)
    try:
        one = socket.socketpair(type=kind)[0] if family == "pair" else socket.socket(getattr(socket, family), kind)
        one.settimeout(5)
        where = tuple(address) if isinstance(address, list) else address
        one.sendto(b"x", where) if kind == socket.SOCK_DGRAM else one.connect(where)
    except OSError:
        return False
    return True
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
            "reached": [name for name, *rest in json.loads(LISTENING) if reaches(*rest)]}
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
# As a kernel without it.
NO_SECCOMP = """
import ctypes
class Refusing(ctypes.CDLL):
    def prctl(self, option, *rest):
        if option != 22:
            return self["prctl"](option, *rest)
        ctypes.set_errno(22)
        return -1
ctypes.CDLL = Refusing
"""


def spied(place: Path, listening: Listening, more: str = "") -> Path:
    """Let each Python that starts with PYTHONPATH=`place` tell in the file that is returned."""
    seen = place / "seen.json"
    names = f"SPY_FILE, LISTENING = {str(seen)!r}, {json.dumps(listening)!r}\n"
    (place / "sitecustomize.py").write_text(names + SPY + more)
    return seen


def test_the_process_has_no_qtoolkit_no_secret_and_no_network(
    made: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, listening: Listening
) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    (tmp_path / "token").write_text("hf_" + "F" * 34)
    seen = spied(tmp_path, listening)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = run_behaviour(request(made["nf4"]))
    assert found["model"] == "LlamaForCausalLM"
    inside = json.loads(seen.read_text())
    # To root, who gives up what it may do besides, or in a namespace of its own; elsewhere it is told.
    assert inside.pop("parent") == 0 or (found["network_open"] and os.getuid() != 0)
    assert inside.pop("reached") == expected(found["network_open"], found["sockets_open"])
    assert inside == {"qtoolkit": False, "token": None, "offline": True, "user": os.getuid(), "secrets": []}


@pytest.mark.long
def test_where_unshare_is_refused_a_row_says_so(
    made: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, listening: Listening
) -> None:
    seen = spied(tmp_path, listening, REFUSING)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    verification = qt.verify(made["nf4"])
    assert json.loads(seen.read_text())["reached"] == expected("not permitted", verification.sockets_open)
    assert verification.passed, str(verification)
    assert "\n  network  " in str(verification) and "not blocked  (Operation not permitted)" in str(verification)
    assert verification.network_open == "Operation not permitted"
    # It is no check of the model: those are the same everywhere.
    assert "network" not in [check.name for check in verification.checks]


def test_where_a_filter_is_refused_a_row_says_so(
    made: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, listening: Listening
) -> None:
    seen = spied(tmp_path, listening, NO_SECCOMP)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    verification = qt.verify(made["nf4"])
    assert json.loads(seen.read_text())["reached"] == expected(verification.network_open, "no filter")
    assert verification.passed, str(verification)
    assert "\n  local sockets  " in str(verification) and "not blocked  (Invalid argument)" in str(verification)
    assert verification.sockets_open == "Invalid argument"


@pytest.mark.skipif(sys.platform != "linux", reason="the filter is Linux'")
def test_on_a_machine_whose_calls_are_not_known_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    assert launcher.leave_local_sockets() == "the system calls of riscv64 are not known"


# What CUDA does at its start, and what Python's own libraries use.
NEEDING = """
import asyncio, multiprocessing, os, socket
one = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
one.bind(f"\\0cuda-uvmfd-test-{os.getpid()}")
one.listen()
first, second = socket.socketpair()
first.sendall(b"x")
assert second.recv(1) == b"x"
asyncio.run(asyncio.sleep(0))
with multiprocessing.get_context("fork").Pool(1) as pool:
    assert pool.map(abs, [-1]) == [1]
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the filter is Linux'")
def test_what_cuda_and_python_need_of_sockets_stays(tmp_path: Path) -> None:
    (tmp_path / "needing.py").write_text(NEEDING)
    files = (launcher.__file__, tmp_path / "report", os.getpid(), tmp_path / "needing.py")
    done = subprocess.run([sys.executable, "-P", *map(str, files)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_where_all_is_blocked_there_is_no_row() -> None:
    shown = str(Verification("x", ()))
    assert "network" not in shown and "sockets" not in shown


@pytest.mark.parametrize("show", [str, Verification._repr_html_], ids=["text", "HTML"])
def test_outputs_of_notebooks_are_the_same_where_nothing_is_blocked(show: Callable[[Verification], str]) -> None:
    rules = configparser.RawConfigParser()
    rules.read(Path(__file__).parents[1] / "nbval_sanitize.cfg", encoding="utf-8")
    check = Check("quantization config", True, "fine", "a remark")
    shown = [show(Verification("x", (check,), False, *why)) for why in ((), ("not permitted", "no <seccomp>"))]
    assert len(shown[1]) > len(shown[0])
    for section in rules.sections():
        pattern, replacement = rules.get(section, "regex"), rules.get(section, "replace")
        shown = [re.sub(pattern, replacement, text) for text in shown]
    assert shown[0] == shown[1]
    assert "a remark" in shown[0]


CONNECT = """
import json, os, socket, sys
reached = []
for address in json.loads(sys.argv[1]):
    with socket.socket(socket.AF_INET if isinstance(address, list) else socket.AF_UNIX) as one:
        one.settimeout(5)
        reached.append(one.connect_ex(tuple(address) if isinstance(address, list) else address) == 0)
print(json.dumps([reached, os.getuid()]))
"""


PYTHON = "/usr/bin/python3"


@pytest.mark.skipif(
    sys.platform != "linux" or os.getuid() != 0 or not Path(PYTHON).exists(),
    reason="root alone becomes somebody else, who needs a Python that is everybody's",
)
def test_who_is_not_root_leaves_the_network_too(listening: Listening) -> None:
    nobody = 65534
    with TemporaryDirectory() as folder:
        os.chown(folder, nobody, nobody)
        place = Path(folder)
        shutil.copy(launcher.__file__, place / "launcher.py")
        (place / "connect.py").write_text(CONNECT)
        address = json.dumps([address for name, _, _, address in listening if name in {"loopback", "path"}])
        done = subprocess.run(
            [PYTHON, "-P", place / "launcher.py", place / "report", str(os.getpid()), place / "connect.py", address],
            capture_output=True,
            text=True,
            check=False,
            user=nobody,
            cwd=place,
        )
        assert done.returncode == 0, done.stderr
        still_open = json.loads((place / "report").read_text())
        # Who connects to nothing reaches no network that way either.
        local = bool(still_open["sockets_open"])
        assert json.loads(done.stdout) == [[bool(still_open["network_open"]) and local, local], nobody]
