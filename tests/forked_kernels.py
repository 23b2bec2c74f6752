"""Kernels of notebooks, forked from a process that has imported torch: that takes three seconds each time.

`python forked_kernels.py PLACE OWNER -f FILE` is what Jupyter starts in a kernel's place. It asks a process
that has the same variables for a fork, hands signals on to it, and ends with it. That process is started by the first
which asks, and ends with the process OWNER. Nothing that reads a variable of Hugging Face's is imported before a fork:
notebooks set some.
"""

import fcntl
import gc
import hashlib
import importlib
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

# What notebooks import, with what transformers imports of torch; not bitsandbytes, which warns where it is imported.
OTHERS = (
    *("ipykernel.kernelapp", "ipykernel.ipkernel", "IPython", "ipywidgets", "jinja2", "numpy", "scipy.optimize"),
    *("pandas", "torch", "torch.distributed.tensor", "torch._dynamo", "gguf"),
)
# They differ between kernels, or are set by torch once it is imported; nothing that is imported here reads them.
OF_ONE_KERNEL = ("JPY_", "PYTEST_", "TORCHINDUCTOR_CACHE_DIR", "KMP_DUPLICATE_LIB_OK")
LONGEST_REQUEST = 1_000_000


@contextmanager
def kernels_are_forked() -> Iterator[None]:
    """Let Jupyter fork the kernel "python3" while entered, where the system has that."""
    if not hasattr(os, "fork"):
        yield
        return
    before = os.environ.get("JUPYTER_PATH")
    with TemporaryDirectory() as place:
        kernel = {
            "argv": [sys.executable, __file__, place, str(os.getpid()), "-f", "{connection_file}"],
            "display_name": "Python 3 (ipykernel)",
            "language": "python",
            "metadata": {"debugger": True},
        }
        spec = Path(place, "kernels", "python3", "kernel.json")
        spec.parent.mkdir(parents=True)
        spec.write_text(json.dumps(kernel), encoding="utf-8")
        os.environ["JUPYTER_PATH"] = os.pathsep.join(filter(None, (place, before)))
        try:
            yield
        finally:
            os.environ.pop("JUPYTER_PATH")
            if before is not None:
                os.environ["JUPYTER_PATH"] = before


def stand_for_kernel(place: Path, owner: str, arguments: Sequence[str]) -> None:
    """Have a kernel forked, and live as long as it does."""
    address = _served(place, owner)
    asked = {"arguments": arguments, "environment": dict(os.environ), "folder": str(Path.cwd())}
    with socket.socket(socket.AF_UNIX) as link:
        link.connect(str(address))
        socket.send_fds(link, [json.dumps(asked).encode()], [0, 1, 2])
        kernel = int(link.recv(100))

        def hand_on(number: int, frame: object) -> None:
            with suppress(ProcessLookupError):
                os.kill(kernel, number)

        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, hand_on)
        link.recv(1)


def _served(place: Path, owner: str) -> Path:
    """Return the address of a process with the variables of this one, started where there is none yet."""
    variables = sorted((name, value) for name, value in os.environ.items() if not name.startswith(OF_ONE_KERNEL))
    key = hashlib.sha256(json.dumps(variables).encode()).hexdigest()[:16]
    address = place / key
    with (place / f"{key}.lock").open("w") as lock, (place / f"{key}.log").open("a") as log:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not address.exists():
            command = [sys.executable, __file__, "serve", str(address), owner]
            server = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
            while not address.exists():
                if server.poll() is not None:
                    raise RuntimeError(Path(log.name).read_text(encoding="utf-8"))
                time.sleep(0.02)
    return address


def serve(address: Path, owner: int) -> None:
    """Import what kernels import, and fork one for each that asks, until the owner ends; return in each fork as it."""
    sys.path.pop(0)  # this file's folder, whose packages have names of others
    for name in OTHERS:
        with suppress(ModuleNotFoundError):
            importlib.import_module(name)
    assert not {"huggingface_hub", "transformers", "qtoolkit"} & set(sys.modules)
    gc.collect()
    gc.freeze()
    # Nobody waits for a fork.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f"{address}.new")
    listener.listen()
    listener.settimeout(1)
    Path(f"{address}.new").rename(address)
    while True:
        try:
            link, _ = listener.accept()
        except TimeoutError:
            if _is_gone(owner):
                sys.exit()
            continue
        link.settimeout(None)
        content, streams, _, _ = socket.recv_fds(link, LONGEST_REQUEST, 3)
        if os.fork():
            link.close()
            for stream in streams:
                os.close(stream)
            continue
        listener.close()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        _become_kernel(link, json.loads(content), streams)
        return


def _is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def _become_kernel(link: socket.socket, asked: dict[str, Any], streams: Sequence[int]) -> None:
    """Make of this process what Jupyter would have started."""
    os.setsid()
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(asked["folder"])
    os.environ.clear()
    # Its parent is not the one that Jupyter means.
    os.environ.update({name: value for name, value in asked["environment"].items() if name != "JPY_PARENT_PID"})
    launcher = importlib.util.find_spec("ipykernel_launcher")
    assert launcher is not None and launcher.origin is not None
    sys.argv = [launcher.origin, *asked["arguments"]]
    link.send(str(os.getpid()).encode())

    def end_with_it() -> None:
        link.recv(1)
        os._exit(1)

    threading.Thread(target=end_with_it, daemon=True).start()


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(Path(sys.argv[2]), owner=int(sys.argv[3]))
        importlib.import_module("ipykernel.kernelapp").launch_new_instance()
    else:
        stand_for_kernel(Path(sys.argv[1]), owner=sys.argv[2], arguments=sys.argv[3:])
