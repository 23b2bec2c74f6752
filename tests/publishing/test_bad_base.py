"""A base that cannot be read, or takes all there is: that is told of the base, and says nothing of the model."""

import itertools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import qtoolkit as qt
from qtoolkit.publishing import behaviour, process
from qtoolkit.records import Verification


@pytest.fixture
def bad(base: Path, tmp_path: Path) -> Path:
    """A copy of the base, to be spoilt."""
    return Path(shutil.copytree(base, tmp_path / "tiny-llama"))


def spoil(file: Path, changes: dict[str, Any]) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def assert_told_of_the_base_alone(verification: Verification, why: str) -> None:
    assert verification.passed, str(verification)
    checks = {check.name: check for check in verification.checks}
    assert checks["base"].passed is None
    assert checks["base"].value.startswith(f"base could not be read: {why}"), checks["base"].value
    # The model's own rows stand, by its receipt.
    for name in ("loads in transformers", "logits", "perplexity", "token ids", "special tokens"):
        assert checks[name].passed is True, str(verification)
    assert checks["token ids"].value == "as in the receipt"


@pytest.mark.parametrize(
    "changes",
    [{"num_labels": 10**9}, {"num_hidden_layers": 10**9}, {"model_type": "own", "auto_map": {"AutoConfig": "x.X"}}],
    ids=["labels", "layers", "code"],
)
def test_a_config_that_is_refused_is_not_opened(
    made: dict[str, Path], bad: Path, changes: dict[str, Any], run_here: list[str]
) -> None:
    spoil(bad / "config.json", changes)
    assert_told_of_the_base_alone(qt.verify(made["absmax"], base=bad), "")
    assert run_here == [str(made["absmax"])]


def test_a_config_that_is_no_json_is_told_of_the_base(made: dict[str, Path], bad: Path, run_here: list[str]) -> None:
    (bad / "config.json").write_text("[" * 100_000)
    assert_told_of_the_base_alone(qt.verify(made["absmax"], base=bad), "")
    assert run_here == [str(made["absmax"])]


# Each doubles every "e", and so all memory is taken soon.
DOUBLING = {"type": "Replace", "pattern": {"String": "e"}, "content": "ee"}


@pytest.mark.slow
def test_a_tokenizer_that_takes_all_memory_is_ended(
    made: dict[str, Path], bad: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "_BASE_MEMORY", 300_000_000)
    spoil(bad / "tokenizer.json", {"normalizer": {"type": "Sequence", "normalizers": [DOUBLING] * 60}})
    assert_told_of_the_base_alone(qt.verify(made["absmax"], base=bad), "it took more than ")


# What the process of a verification does when it opens its second tokenizer, the base's.
AT_THE_BASE = """
import sys
if any("behaviour.py" in one for one in sys.orig_argv):
    import os, time, transformers
    opened = []
    def read(folder, **_):
        opened.append(folder)
        if len(opened) > 1:
            {act}
        return was(folder, **_)
    was = transformers.AutoTokenizer.from_pretrained
    transformers.AutoTokenizer.from_pretrained = read
"""


@pytest.fixture
def every_process_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Let every Python process that is started run some code first."""

    def run(code: str) -> None:
        (tmp_path / "sitecustomize.py").write_text(code)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    return run


@pytest.mark.slow
def test_a_base_that_takes_too_long_is_ended(
    made: dict[str, Path], base: Path, every_process_runs: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "_BASE_TIME", 0.0)
    every_process_runs(AT_THE_BASE.format(act="time.sleep(600)"))
    assert_told_of_the_base_alone(qt.verify(made["absmax"], base=base), "not done after 0 s")


# What it does when it has answered everything.
LINGERING = """
import sys
if any("behaviour.py" in one for one in sys.orig_argv):
    import atexit, pathlib, time
    atexit.register(time.sleep, 600)
    atexit.register(pathlib.Path({answered!r}).touch)
"""


@pytest.mark.slow
@pytest.mark.long
def test_a_process_that_has_answered_everything_and_does_not_end_has_answered(
    made: dict[str, Path], base: Path, every_process_runs: Callable[[str], None], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    answered, hours = tmp_path / "answered", itertools.count(step=3600.0)
    every_process_runs(LINGERING.format(answered=str(answered)))
    # A clock that stands still until then, and goes on by an hour at each look.
    clock = SimpleNamespace(monotonic=lambda: next(hours) if answered.exists() else 0.0)
    monkeypatch.setattr(process, "time", clock)
    verification = qt.verify(made["absmax"], base=base)
    assert verification.passed, str(verification)
    assert {check.name: check for check in verification.checks}["token ids"].value != "as in the receipt"


@pytest.mark.slow
def test_a_process_that_dies_of_the_base_says_so_of_the_base(
    made: dict[str, Path], base: Path, every_process_runs: Callable[[str], None]
) -> None:
    every_process_runs(AT_THE_BASE.format(act="os.kill(os.getpid(), 9)"))
    assert_told_of_the_base_alone(qt.verify(made["nf4"], base=base), "the process was killed: memory ran out")


@pytest.mark.usefixtures("run_here")
def test_too_little_memory_for_the_base_is_told_of_the_base(
    made: dict[str, Path], base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    was = behaviour.describe_folder

    def describe(folder: Path) -> dict[str, Any]:
        if folder == base:
            raise MemoryError("too much")
        return was(folder)

    monkeypatch.setattr(behaviour, "describe_folder", describe)
    assert_told_of_the_base_alone(qt.verify(made["nf4"], base=base), "MemoryError: too much")
