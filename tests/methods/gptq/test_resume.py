"""A GPTQ job that was killed goes on where it was, and its result is the same to the bit."""

import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

import qtoolkit as qt
from qtoolkit.errors import OutputError, OutputExistsError
from qtoolkit.methods.gptq.layer_groups import GPTQBlocks
from qtoolkit.records import ProgressEvent
from qtoolkit.stream import run
from qtoolkit.stream.block_method import Accumulator
from tests.methods.gptq.jobs import gptq
from tests.sample_models import few_tokens, random_model

pytestmark = pytest.mark.slow

# For each "PHASE NUMBER MODEL OUTPUT", a fork runs the job and dies by SIGKILL at the event of this number and phase;
# the codes by which they ended are printed. What is asked of `qt` before the fork is imported once.
KILLED = """
import os, signal, sys
import qtoolkit as qt
from tests.methods.gptq.jobs import gptq

seen = 0
def die(event):
    global seen
    seen += event.phase == phase
    if seen == int(number):
        os.kill(os.getpid(), signal.SIGKILL)

quantize, config = qt.quantize, gptq()
for moment in sys.argv[1:]:
    phase, number, model, output = moment.split(maxsplit=3)
    process = os.fork()
    if not process:
        quantize(model, config, output=output, device="cpu", on_progress=die)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), flush=True)
"""
# Phase and number of the event, and the blocks that need not be done again.
MOMENTS = {
    "before a block": ("calibrate", 1, 0),
    "in the first block": ("quantize", 1, 0),
    "in the second": ("quantize", 10, 1),
    "at its last layer": ("quantize", 14, 1),
    "while it saves": ("save", 2, 2),
}

AT_AN_EXPERT = "at an expert"


@pytest.fixture(scope="module")
def whole(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The weights that an uninterrupted job writes."""
    output = tmp_path_factory.mktemp("whole") / "out"
    qt.quantize(tiny_llama, gptq(), output=output, device="cpu")
    return (output / "model.safetensors").read_bytes()


class Stop(Exception):
    pass


def stop_at(phase: str, number: int) -> object:
    seen = 0

    def on_progress(event: ProgressEvent) -> None:
        nonlocal seen
        seen += event.phase == phase
        if seen == number:
            raise Stop

    return on_progress


@pytest.fixture(scope="module")
def tiny_mixtral(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a random Mixtral of one block, four experts."""
    folder = tmp_path_factory.mktemp("models") / "tiny-mixtral"
    count = few_tokens(smollm2, folder)
    random_model("mixtral", vocab_size=count, num_hidden_layers=1).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def killed(tiny_llama: Path, tiny_mixtral: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Jobs that were killed, each with a folder named by the moment for its output."""
    folder = tmp_path_factory.mktemp("killed")
    moments = [f"{phase} {number} {tiny_llama} {folder / name / 'out'}" for name, (phase, number, _) in MOMENTS.items()]
    moments.append(f"quantize 9 {tiny_mixtral} {folder / AT_AN_EXPERT / 'out'}")
    run = [sys.executable, "-c", KILLED, *moments]
    ended = subprocess.run(run, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True)
    assert ended.stdout.split() == [str(-signal.SIGKILL)] * len(moments), ended.stderr[-2000:]
    return folder


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_it_goes_on(moment: str, killed: Path, tiny_llama: Path, whole: bytes) -> None:
    output = killed / moment / "out"
    assert not output.exists()
    result = qt.quantize(tiny_llama, gptq(), output=output, device="cpu")
    assert result.report.calibration is not None and result.report.calibration.resumed == MOMENTS[moment][2]
    assert (output / "model.safetensors").read_bytes() == whole
    assert not output.with_name("out.partial").exists()


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The first layer of each group whose inputs are collected."""
    names: list[str] = []
    start = GPTQBlocks.start

    def noted(blocks: GPTQBlocks, layers: Sequence[str], in_features: int) -> Accumulator:
        names.append(layers[0])
        return start(blocks, layers, in_features)

    monkeypatch.setattr(GPTQBlocks, "start", noted)
    return names


def test_killed_at_an_expert_it_goes_on_with_the_next(
    killed: Path, tiny_mixtral: Path, started: list[str], tmp_path: Path
) -> None:
    """Two groups of attention, both of the first expert and one of the second were done."""
    qt.quantize(tiny_mixtral, gptq(), output=tmp_path / "whole", device="cpu")
    groups = [*started]
    started.clear()
    output = killed / AT_AN_EXPERT / "out"
    qt.quantize(tiny_mixtral, gptq(), output=output, device="cpu")
    assert len(groups) == 10 and started == groups[5:]
    assert (output / "model.safetensors").read_bytes() == (tmp_path / "whole/model.safetensors").read_bytes()
    assert not output.with_name("out.partial").exists()


@pytest.mark.parametrize("true_sequential", [True, False])
def test_stopped_at_an_expert_of_several_batches_it_goes_on(
    true_sequential: bool,
    tiny_mixtral: Path,
    started: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each group sees the weights that it would have seen, also in the stream of the full-precision model."""
    monkeypatch.setattr(run, "samples_at_once", lambda *sizes: 2)
    config = gptq(num_samples=4, true_sequential=true_sequential, refine=0)
    qt.quantize(tiny_mixtral, config, output=tmp_path / "whole", device="cpu")
    with pytest.raises(Stop):
        qt.quantize(tiny_mixtral, config, output=tmp_path / "out", device="cpu", on_progress=stop_at("quantize", 12))
    damaged = tmp_path / "out.partial/journal/block-00000-group-00004.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    started.clear()
    qt.quantize(tiny_mixtral, config, output=tmp_path / "out", device="cpu")
    assert len(started) == 6
    assert (tmp_path / "out/model.safetensors").read_bytes() == (tmp_path / "whole/model.safetensors").read_bytes()


def test_stopped_twice_it_goes_on_twice(tiny_llama: Path, whole: bytes, tmp_path: Path) -> None:
    for number in (8, 5):
        with pytest.raises(Stop):
            qt.quantize(
                tiny_llama, gptq(), output=tmp_path / "out", device="cpu", on_progress=stop_at("quantize", number)
            )
    result = qt.quantize(tiny_llama, gptq(), output=tmp_path / "out", device="cpu")
    assert result.report.calibration is not None and result.report.calibration.resumed == 1
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == whole


@pytest.fixture
def unfinished(tiny_llama: Path, tmp_path: Path) -> Path:
    """An output whose job was stopped with one block done."""
    with pytest.raises(Stop):
        qt.quantize(tiny_llama, gptq(), output=tmp_path / "out", device="cpu", on_progress=stop_at("quantize", 9))
    return tmp_path / "out"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"bits": 3}, "bits 4, and this call has 3"),
        ({"damp_percent": 0.2}, "and this call has 0.2"),
        ({"full_range": False}, "full_range True, and this call has False"),
        ({"refine": 1}, "refine 3, and this call has 1"),
        ({"qep_alpha": 0.25}, "qep_alpha 0.5, and this call has 0.25"),
        ({"token_weights": True}, "token_weights False, and this call has True"),
        ({"num_samples": 7}, "num_samples 8, and this call has 7"),
        ({"calibration": ["Something else. " * 400]}, "calibration 4 texts, and this call has 1 texts"),
    ],
    ids=["bits", "damping", "signs", "rounds", "second stream", "weights of tokens", "samples", "text"],
)
def test_another_recipe_is_refused(changes: dict[str, object], told: str, unfinished: Path, tiny_llama: Path) -> None:
    with pytest.raises(OutputError, match=f"was begun with .*{told}"):
        qt.quantize(tiny_llama, gptq(**changes), output=unfinished, device="cpu")
    again = qt.quantize(tiny_llama, gptq(), output=unfinished, device="cpu")
    assert again.report.calibration is not None and again.report.calibration.resumed == 1


def test_other_weights_are_refused(unfinished: Path, tiny_llama: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(tiny_llama, other)
    file = min(other.glob("*.safetensors"))
    data = bytearray(file.read_bytes())
    # The first byte after the header.
    data[8 + int.from_bytes(data[:8], "little")] ^= 1
    file.write_bytes(data)
    with pytest.raises(OutputError, match="was begun with weights"):
        qt.quantize(other, gptq(), output=unfinished, device="cpu")


def test_the_same_texts_in_other_words_are_refused(unfinished: Path, tiny_llama: Path) -> None:
    from tests.methods.gptq.jobs import TEXTS

    with pytest.raises(OutputError, match="calibration text"):
        qt.quantize(tiny_llama, gptq(calibration=[text.upper() for text in TEXTS]), output=unfinished, device="cpu")


def test_resume_false_starts_anew(unfinished: Path, tiny_llama: Path) -> None:
    result = qt.quantize(tiny_llama, gptq(bits=8), output=unfinished, device="cpu", resume=False)
    assert result.report.calibration is not None and result.report.calibration.resumed == 0


def test_a_method_without_a_journal_does_not_drop_it(unfinished: Path, tiny_llama: Path) -> None:
    with pytest.raises(OutputExistsError, match="holds an unfinished job"):
        qt.quantize(tiny_llama, qt.AbsMax(), output=unfinished, device="cpu")
    qt.quantize(tiny_llama, qt.AbsMax(), output=unfinished, device="cpu", resume=False)
    assert not unfinished.with_name("out.partial").exists()


def test_a_job_that_did_nothing_leaves_nothing(tiny_llama: Path, tmp_path: Path) -> None:
    with pytest.raises(Stop):
        qt.quantize(
            tiny_llama, gptq(), output=tmp_path / "new" / "out", device="cpu", on_progress=stop_at("quantize", 1)
        )
    assert not list(tmp_path.iterdir())
