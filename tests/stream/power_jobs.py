"""Jobs whose writes are recorded: `python -m tests.stream.power_jobs FOLDER`.

Each begins by making the folder `FOLDER/NAME/.begin`, and works on `FOLDER/NAME/out`.
"""

import dataclasses
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import qtoolkit as qt
from qtoolkit import files
from qtoolkit.publishing.receipt_file import write_receipt
from qtoolkit.records import ProgressEvent
from tests.sample_models import random_model

CONFIG = qt.GPTQ(
    calibration=["the cat sat on the mat and the dog lay by the door " * 20], num_samples=2, seq_len=32, group_size=32
)


class Stop(Exception):
    pass


def make_base(folder: Path) -> Path:
    """A model of 200 kB with a tokenizer of some kB, so that all that is written can be recorded."""
    random_model("llama", hidden_size=64, intermediate_size=64, vocab_size=64).save_pretrained(folder)
    words = ["<unk>", *["the", "cat", "sat", "on", "mat", "and", "dog", "lay", "by", "door"]]
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))  # noqa: S106
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>").save_pretrained(folder)  # noqa: S106
    return folder


def run_gptq(base: Path, output: Path, stop_at: int = -1) -> None:
    """A job with a journal; stopped at the event with this number, which comes after the first block."""
    seen = 0

    def on_progress(event: ProgressEvent) -> None:
        nonlocal seen
        seen += event.phase == "quantize"
        if seen == stop_at:
            raise Stop

    qt.quantize(base, CONFIG, output=output, device="cpu", on_progress=on_progress)


def run_absmax(base: Path, output: Path, bits: int) -> qt.QuantizedModel:
    return qt.quantize(base, qt.AbsMax(bits=bits), output=output, device="cpu", overwrite=True)


def first_save(base: Path, folder: Path) -> Callable[[], object]:
    return lambda: run_gptq(base, folder / "out")


def resume(base: Path, folder: Path) -> Callable[[], object]:
    try:
        run_gptq(base, folder / "out", stop_at=9)
    except Stop:
        return lambda: run_gptq(base, folder / "out")
    raise AssertionError


def overwrite(base: Path, folder: Path) -> Callable[[], object]:
    run_absmax(base, folder / "out", 8)
    return lambda: run_absmax(base, folder / "out", 4)


def overwrite_by_renames(base: Path, folder: Path) -> Callable[[], object]:
    """As on systems that do not exchange two folders in one step."""
    run_absmax(base, folder / "out", 8)

    def job() -> None:
        files._renameat2 = lambda: None
        run_absmax(base, folder / "out", 4)

    return job


def receipt(base: Path, folder: Path) -> Callable[[], object]:
    """A receipt that is written again into a model that stands."""
    quantized = run_absmax(base, folder / "out", 8)
    assert quantized.receipt is not None
    changed = dataclasses.replace(quantized.receipt, notes=("again",))
    return lambda: write_receipt(folder / "out", changed)


# The one that changes the system for those after it comes last.
JOBS = {job.__name__: job for job in (first_save, resume, overwrite, receipt, overwrite_by_renames)}


def main(root: Path) -> None:
    base = make_base(root / "base")
    for name, prepare in JOBS.items():
        (root / name).mkdir()
        job = prepare(base, root / name)
        (root / name / ".begin").mkdir()
        job()


if __name__ == "__main__":
    shutil.rmtree(sys.argv[1], ignore_errors=True)
    Path(sys.argv[1]).mkdir()
    main(Path(sys.argv[1]))
