"""Kill jobs at random moments, and see that nothing is lost: `python scripts/kill_jobs.py --kills 60`.

GPTQ, NF4 and int8, each with and without a model to overwrite. After each SIGKILL what stands at the output must be
what stood there before, or the new model; the same call again must make the same bytes as a job that nobody killed.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import bitsandbytes  # noqa: F401  # imported once, before processes are forked
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import qtoolkit as qt

WORDS = ("the", "cat", "sat", "on", "mat", "and", "two", "dogs", "lay", "by", "some", "door", "while", "rain", "fell")
TEXT = " ".join(WORDS[(7 * index) % len(WORDS)] for index in range(4000))
Files = dict[str, str]


@dataclass
class Counts:
    """What became of the jobs of one kind."""

    kills: int = 0
    before: int = 0  # what stood there before still did
    after: int = 0  # the new model stood there already
    resumed: int = 0  # blocks were kept
    same: int = 0  # the same call again made the same bytes
    faults: list[str] = field(default_factory=list)


def make_model(folder: Path, hidden: int, layers: int) -> None:
    """Write a random Llama with a tokenizer of few words."""
    torch.manual_seed(0)
    sizes = {"hidden_size": hidden, "intermediate_size": 2 * hidden, "num_hidden_layers": layers}
    config = LlamaConfig(**sizes, num_attention_heads=4, num_key_value_heads=2, vocab_size=512, dtype="bfloat16")
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    words = {word: index for index, word in enumerate(["<unk>", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))  # noqa: S106
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>").save_pretrained(folder)  # noqa: S106


def config_of(method: str) -> qt.GPTQ | qt.NF4 | qt.Int8 | qt.AbsMax:
    """The options of a method."""
    if method == "gptq":
        return qt.GPTQ(calibration=[TEXT], num_samples=8, seq_len=64, group_size=32)
    configs: dict[str, qt.NF4 | qt.Int8 | qt.AbsMax] = {"nf4": qt.NF4(), "int8": qt.Int8(), "absmax": qt.AbsMax()}
    return configs[method]


def quantize(model: Path, method: str, output: Path, *, overwrite: bool) -> None:
    """Run a job, and note beside the output how many blocks it did not do again."""
    report = qt.quantize(model, config_of(method), output=output, device="cpu", overwrite=overwrite).report
    resumed = report.calibration.resumed if report.calibration else 0
    output.with_suffix(".resumed").write_text(str(resumed))


def start(job: Callable[[], None], errors: Path) -> int:
    """Do something in a process of its own, which writes to a file; the process's id."""
    pid = os.fork()
    if pid:
        return pid
    with errors.open("w") as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
        code = 1
        try:
            job()
            code = 0
        except BaseException as error:  # noqa: BLE001  # it is told by the process that started this one
            print(f"{type(error).__name__}: {error}", flush=True)
        finally:
            os._exit(code)


def finish(pid: int, errors: Path) -> None:
    """Wait for a process, and raise what it told when it failed."""
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code:
        raise RuntimeError(f"a job ended with {code}: {errors.read_text()[-2000:]}")


def run(job: Callable[[], None], errors: Path) -> float:
    """Do something to its end in a process of its own; the seconds that it took."""
    begun = time.monotonic()
    finish(start(job, errors), errors)
    return time.monotonic() - begun


def hashes(folder: Path) -> Files:
    """SHA-256 of each file of a model; none where it is not there. A receipt holds times, so its own files count."""
    found = {
        file.relative_to(folder).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }
    receipt = folder / "qtoolkit.json"
    if receipt.exists():
        told = {name: entry["sha256"] for name, entry in json.loads(receipt.read_bytes())["files"].items()}
        found[receipt.name] = "tells the truth" if told.items() <= found.items() else "lies"
    return found


def kill_once(
    folder: Path, model: Path, method: str, old: Path | None, new: Files, at: float
) -> tuple[str, int] | None:
    """Kill a job after some seconds, look, and call it again.

    Returns:
        Whether what stood there "before" or "after" it did, and the blocks that were kept; None where it had ended.
    """
    output, errors = folder / "out", folder / "errors"
    if old is not None:
        shutil.copytree(old, output)
    before = hashes(output)
    pid = start(lambda: quantize(model, method, output, overwrite=old is not None), errors)
    time.sleep(at)
    os.kill(pid, signal.SIGKILL)
    if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) != -signal.SIGKILL:
        return None
    found = hashes(output)
    if found not in (before, new):
        raise RuntimeError(f"neither the old nor the new model stands there: {found}")
    stands = "after" if found == new else "before"
    if stands == "after" and old is None:
        return stands, 0
    run(lambda: quantize(model, method, output, overwrite=old is not None), errors)
    if hashes(output) != new:
        raise RuntimeError("the same call again made another model")
    if output.with_name("out.partial").exists():
        raise RuntimeError("out.partial is still there")
    return stands, int(output.with_suffix(".resumed").read_text())


def main() -> int:
    """Kill jobs and print a table; 1 where anything was lost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    draw = random.Random(given.seed)  # noqa: S311
    kinds = [(method, overwrite) for method in ("gptq", "nf4", "int8") for overwrite in (False, True)]
    with tempfile.TemporaryDirectory() as name:
        root, errors = Path(name), Path(name) / "errors"
        run(lambda: make_model(root / "base", given.hidden, given.layers), errors)
        # Something else than any of the new ones.
        run(lambda: quantize(root / "base", "absmax", root / "old", overwrite=False), errors)
        references: dict[str, tuple[Files, float]] = {}
        table = {kind: Counts() for kind in kinds}
        for number in range(given.kills):
            method, overwrite = kinds[number % len(kinds)]
            if method not in references:
                seconds = run(lambda: quantize(root / "base", method, root / method, overwrite=False), errors)  # noqa: B023
                references[method] = hashes(root / method), seconds
            new, seconds = references[method]
            old = root / "old" if overwrite else None
            kill_somewhen(root, table[method, overwrite], method, old, new, draw, seconds)
    print(f"{'job':22} {'kills':>5} {'old there':>9} {'new there':>9} {'resumed':>8} {'same bytes':>10}")
    for (method, overwrite), counts in table.items():
        label = f"{method}{', overwrite' if overwrite else ''}"
        print(f"{label:22} {counts.kills:5} {counts.before:9} {counts.after:9} {counts.resumed:8} {counts.same:10}")
    faults = [fault for counts in table.values() for fault in counts.faults]
    print(f"{sum(counts.kills for counts in table.values())} kills, {len(faults)} faults")
    print(*faults, sep="\n", end="")
    return 1 if faults else 0


def kill_somewhen(
    root: Path, counts: Counts, method: str, old: Path | None, new: Files, draw: random.Random, seconds: float
) -> None:
    """Kill a job at a random moment, and count what was seen."""
    found = None
    while found is None:
        with tempfile.TemporaryDirectory(dir=root) as place:
            try:
                found = kill_once(Path(place), root / "base", method, old, new, draw.uniform(0, seconds))
            except RuntimeError as error:
                counts.kills += 1
                counts.faults.append(f"{method}: {error}")
                return
    counts.kills += 1
    counts.same += 1
    counts.before += found[0] == "before"
    counts.after += found[0] == "after"
    counts.resumed += found[1] > 0


if __name__ == "__main__":
    sys.exit(main())
