"""What cannot be measured is refused in one line that says what to do."""

from pathlib import Path
from typing import Any

import pytest
import torch

import qtoolkit as qt
from qtoolkit.errors import CheckpointError, ConfigError, JobCancelled
from qtoolkit.evaluation.scoring import LoadedScorer
from qtoolkit.jobs.evaluating import Opened, check_overlap
from qtoolkit.records import ignore_progress
from qtoolkit.texts.overlap import sketch
from qtoolkit.texts.windows import load_windows
from tests.evaluation.plain import HELD_OUT
from tests.methods.gptq.jobs import TEXTS, gptq
from tests.sample_models import random_model

pytestmark = pytest.mark.slow


def evaluate(model: Any, **changes: Any) -> Any:
    options = {"text": [HELD_OUT], "seq_len": 32, "num_tokens": 320, "speed": False, "device": "cpu"}
    return qt.evaluate(model, **(options | changes))


class Scripted:
    """Gives the same logits for every token."""

    def __init__(self, vocabulary: int, broken: tuple[int, int] | None = None) -> None:
        self.vocabulary, self.broken, self.calls = vocabulary, broken, 0

    def logits(self, input_ids: torch.Tensor) -> torch.Tensor:
        logits = torch.zeros(*input_ids.shape, self.vocabulary)
        if self.broken and self.calls == self.broken[0]:
            logits[0, self.broken[1], 7] = torch.nan
        self.calls += 1
        return logits


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"text": [""]}, "text: only empty texts"),
        ({"text": ["too short"]}, "makes 3 tokens, and one window takes 32"),
        ({"num_tokens": 10}, "num_tokens must be at least seq_len, 32, got 10"),
        ({"seq_len": 1}, "seq_len must be at least 2"),
        ({"seq_len": 10**6, "num_tokens": 10**6}, "seq_len must be at most 2048, the most that the model reads"),
        ({"noise_floor": True}, "noise_floor=True needs a base in full precision"),
        ({"base": "no/such/folder/at/all"}, "no/such/folder/at/all"),
        ({"device": "cuda:99"}, "device must be one of"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_bad_options_are_refused(tiny_llama: Path, changes: dict[str, Any], told: str) -> None:
    with pytest.raises(qt.QToolkitError, match=told) as caught:
        evaluate(tiny_llama, **changes)
    assert "\n" not in str(caught.value)


def test_a_base_with_another_vocabulary_is_refused(tokenizer: Any) -> None:
    base, model = Scripted(49152), Scripted(49160)
    with pytest.raises(ConfigError, match=r"Scripted knows 49152 tokens and Scripted 49160: give as base what"):
        evaluate(model, base=base, tokenizer=tokenizer)


@pytest.mark.parametrize("which", ["model", "base"])
def test_nan_is_told_with_its_place(tokenizer: Any, which: str) -> None:
    sound, broken = Scripted(49152), Scripted(49152, broken=(3, 12))
    model, base = (broken, sound) if which == "model" else (sound, broken)
    with pytest.raises(CheckpointError, match=r"Scripted computes NaN at token 12 of window 3: "):
        evaluate(model, base=base, tokenizer=tokenizer)


def test_a_loaded_model_without_a_tokenizer_is_told_to_bring_one() -> None:
    with pytest.raises(ConfigError, match="give tokenizer="):
        evaluate(random_model("llama"))


def test_a_tokenizer_of_another_model_is_refused(tokenizer: Any) -> None:
    with pytest.raises(ConfigError, match="and the model knows 0 to 255"):
        evaluate(random_model("llama"), tokenizer=tokenizer)


@pytest.mark.parametrize("form", ["in memory", "folder", "read back"])
def test_the_calibration_text_is_refused(tiny_llama: Path, tmp_path: Path, form: str) -> None:
    """A saved model knows it by its receipt."""
    made = qt.quantize(tiny_llama, gptq(num_samples=64, seq_len=256), output=tmp_path / "out", device="cpu")
    model = {"in memory": made, "folder": made.path, "read back": qt.load(tmp_path / "out", device="cpu")}[form]
    with pytest.raises(ConfigError, match=r"^4 texts holds text that the model was calibrated on \(100 %"):
        evaluate(model, text=TEXTS, num_tokens=1280)
    assert not any("calibrated" in note for note in evaluate(model).notes)


@pytest.mark.parametrize(("shared", "refused"), [(0, False), (2, False), (3, True)])
def test_a_quotation_is_told_and_more_is_refused(tokenizer: Any, shared: int, refused: bool) -> None:
    options = {"seq_len": 512, "num_tokens": 5120, "stride": None, "max_seq_len": None, "vocab_size": len(tokenizer)}
    windows = load_windows([HELD_OUT], tokenizer, **options, on_progress=ignore_progress)
    passages = (*sketch(windows.tokens)[:shared], *range(20 - shared))
    opened = Opened(LoadedScorer("model", None), tokenizer, passages=passages)
    if refused:
        with pytest.raises(ConfigError, match=r"\(15 % of the smaller of both\)"):
            check_overlap(windows, opened)
    else:
        notes = check_overlap(windows, opened).notes
        assert (
            notes
            == (f"10.0 % of {windows.name}, or of the text that the model was calibrated on, stands in both",)[
                : bool(shared)
            ]
        )


def test_a_cancelled_evaluation_stops(tiny_llama: Path) -> None:
    seen = []

    def stop(event: Any) -> None:
        seen.append(event.phase)
        if event.unit == "blocks":
            raise JobCancelled("enough")

    with pytest.raises(JobCancelled):
        evaluate(tiny_llama, on_progress=stop)
    assert seen[-1] == "evaluate"
