"""What cannot be run is refused in one line, before the model is asked anything."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

import qtoolkit as qt
from qtoolkit.errors import ConfigError, SourceError
from tests.evaluation.task_files import write_task
from tests.sample_models import random_model

pytestmark = pytest.mark.slow

pytest.importorskip("lm_eval", reason="lm-eval is not installed: pip install 'lm-eval>=0.4.13'")


def broken_data(folder: Path) -> Path:
    write_task(folder)
    (folder / "test.jsonl").write_text("no JSON")
    return folder


def twice(folder: Path) -> list[Path]:
    return [write_task(folder / "a"), write_task(folder / "b")]


FOLDERS: dict[str, tuple[Callable[[Path], Any], type[Exception], str]] = {
    "no folder": (lambda folder: folder / "none", ConfigError, "none is no folder: name one with lm-eval's YAML"),
    "empty folder": (lambda folder: folder, ConfigError, "holds no task: put a YAML file"),
    "the same name twice": (twice, ConfigError, "'small_questions' is named twice"),
    "broken data": (broken_data, SourceError, r"the task 'small_questions' cannot be loaded \("),
    "another metric": (
        lambda folder: write_task(folder, metric_list=[{"metric": "no_such_metric"}]),
        SourceError,
        r"the task 'small_questions' cannot be loaded \(",
    ),
    "code": (lambda folder: write_task(folder, unsafe_code=True), ConfigError, "runs code that the model writes"),
    "nothing": (lambda folder: [], ConfigError, "tasks names no task"),
}


@pytest.mark.parametrize(("make", "kind", "told"), FOLDERS.values(), ids=FOLDERS)
def test_a_folder_that_cannot_be_run_is_refused(
    tiny_llama: Path, tmp_path: Path, make: Callable[[Path], Any], kind: type[Exception], told: str
) -> None:
    with pytest.raises(kind, match=told) as caught:
        qt.run_tasks(tiny_llama, make(tmp_path))
    assert len(str(caught.value).splitlines()) == 1


def test_a_name_that_lm_eval_does_not_know_is_told_with_the_nearest(tiny_llama: Path) -> None:
    with pytest.raises(ConfigError, match=r"no task 'helaswag': the nearest are hellaswag, .*'./FOLDER'"):
        qt.run_tasks(tiny_llama, ["arc_easy", "helaswag"])


@pytest.mark.parametrize("option", ["limit", "batch_size"])
def test_numbers_below_one_are_refused(tiny_llama: Path, tmp_path: Path, option: str) -> None:
    with pytest.raises(ConfigError, match=f"{option} must be at least 1, got 0"):
        qt.run_tasks(tiny_llama, write_task(tmp_path), **{option: 0})


def test_a_model_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is none: give tokenizer="):
        qt.run_tasks(random_model("llama"), write_task(tmp_path))


def test_tokens_that_the_model_has_no_embedding_for_are_refused(smollm2: Path, tmp_path: Path) -> None:
    model = random_model("llama", vocab_size=1000)
    before = dict(model.get_input_embeddings()._forward_pre_hooks)
    with pytest.raises(
        ConfigError, match=r"makes token \d+ of the text, and the model knows 0 to 999: give the model's"
    ):
        qt.run_tasks(model, write_task(tmp_path), tokenizer=AutoTokenizer.from_pretrained(smollm2))
    assert model.get_input_embeddings()._forward_pre_hooks == before
