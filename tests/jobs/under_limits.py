"""Run verbs under limits on memory, each in a fork of a process that has imported them: `FOLDER` as argument.

Prints a JSON list of [limit, verb, MB that are left, what came of it, its message]; a fork that dies is a "crash".
"""

import json
import os
import resource
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import qtoolkit as qt
from tests.methods.gptq.jobs import TEXTS, gptq

MODEL = Path(sys.argv[1])
KINDS = {"addresses": (resource.RLIMIT_AS, "VmSize"), "data": (resource.RLIMIT_DATA, "VmData")}
# What is asked for before the limit is set, so that the fork has the code.
VERBS: dict[str, Callable[..., Any]] = {
    "plan": lambda out, plan=qt.plan: plan(MODEL, "nf4", device="cpu"),
    "absmax": lambda out, quantize=qt.quantize: quantize(MODEL, "absmax", output=out, device="cpu"),
    "nf4": lambda out, quantize=qt.quantize: quantize(MODEL, "nf4", output=out, device="cpu"),
    "int8": lambda out, quantize=qt.quantize: quantize(MODEL, "int8", output=out, device="cpu"),
    "gptq": lambda out, quantize=qt.quantize: quantize(MODEL, gptq(), output=out, device="cpu"),
    "load": lambda out, load=qt.load: load(MODEL, device="cpu"),
    "evaluate": lambda out, evaluate=qt.evaluate: evaluate(
        MODEL, text=TEXTS, seq_len=64, num_tokens=512, device="cpu", speed=False
    ),
}
# Plenty for all, too little for any, and in between.
CASES = [
    *(("addresses", verb, room) for verb in VERBS for room in (0, 200)),
    *(("addresses", verb, 3000) for verb in ("absmax", "load", "evaluate")),
    *(("addresses", verb, 350) for verb in ("absmax", "load", "evaluate")),
    *(("data", verb, room) for verb in ("absmax", "load", "evaluate") for room in (0, 40)),
]


def attempt(kind: str, verb: str, room: int) -> tuple[str, str]:
    """What came of a verb, and the message of its error."""
    number, counter = KINDS[kind]
    lines = Path("/proc/self/status").read_text().splitlines()
    used = next(int(line.split()[1]) * 1024 for line in lines if line.startswith(counter))
    with tempfile.TemporaryDirectory() as folder:
        resource.setrlimit(number, (used + room * 1_000_000, resource.RLIM_INFINITY))
        outcome, text = "done", ""
        try:
            VERBS[verb](Path(folder) / "out")
        except BaseException as error:  # noqa: BLE001  # what is not ours is what the test looks for
            resource.setrlimit(number, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            outcome = "refused" if isinstance(error, qt.QToolkitError) else "raw"
            text = str(error) if outcome == "refused" else repr(error)
        resource.setrlimit(number, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        left = [file.name for file in Path(folder).iterdir() if file.name != "out"]
        return (outcome, text) if not left else ("leaves something", str(left))


def in_fork(kind: str, verb: str, room: int) -> tuple[str, str]:
    """As `attempt`, in a process of its own."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writing, json.dumps(attempt(kind, verb, room)).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as stream:
        said = stream.read()
    _, status = os.waitpid(child, 0)
    outcome, text = json.loads(said) if said else ("crash", f"status {status}")
    return outcome, text


if __name__ == "__main__":
    sys.stdout.write(json.dumps([[*case, *in_fork(*case)] for case in CASES]) + "\n")
