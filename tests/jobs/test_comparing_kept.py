"""Results that are kept: taken again where nothing changed, measured anew where something did."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import qtoolkit as qt
from qtoolkit.errors import OutputError
from qtoolkit.jobs.candidates import Candidate, Task
from qtoolkit.jobs.result_cache import ResultCache, key_of
from qtoolkit.records import Compared
from qtoolkit.texts.windows import written_windows
from tests.jobs.compared import compare, figures

pytestmark = pytest.mark.slow

TASK = Task(
    model="org/name",
    revision="c" * 40,
    identity="c" * 40,
    tokenizer=None,
    windows=written_windows(torch.arange(12).view(3, 4), ()),
    prompts=("A",),
    device="cpu",
    noise_floor=False,
    speed=True,
)
CANDIDATE = Candidate("NF4()", qt.NF4())


def test_the_same_call_measures_nothing(tiny_llama: Path, tmp_path: Path) -> None:
    first = compare(tiny_llama, ["absmax"], tmp_path)
    files = list(tmp_path.iterdir())
    again = compare(tiny_llama, ["absmax"], tmp_path)
    # Speeds are never the same twice.
    assert again.results == first.results
    assert list(tmp_path.iterdir()) == files
    anew = compare(tiny_llama, ["absmax"], tmp_path, resume=False)
    assert figures(anew) == figures(first)
    assert anew.results != first.results


def test_a_folder_that_holds_another_model_now_is_measured(tiny_llama: Path, tmp_path: Path) -> None:
    for method in ("absmax", "zero_point"):
        qt.quantize(tiny_llama, method, device="cpu", output=tmp_path / "q", overwrite=True)
        found = compare(tiny_llama, [tmp_path / "q"], tmp_path / "kept")
        assert found.results[0].method == method


OTHER_TASKS: dict[str, dict[str, Any]] = {
    "weights of the model": {"identity": "d" * 40},
    "text": {"windows": written_windows(torch.arange(1, 13).view(3, 4), ())},
    "windows": {"windows": written_windows(torch.arange(12).view(4, 3), ())},
    "tokens that are predicted": {"windows": replace(TASK.windows, first=(1, 2, 2))},
    "prompts": {"prompts": ("B",)},
    "device": {"device": "cuda:0"},
    "noise floor": {"noise_floor": True},
    "speed": {"speed": False},
}


@pytest.mark.parametrize("changes", OTHER_TASKS.values(), ids=OTHER_TASKS)
def test_what_was_measured_on_something_else_has_another_key(changes: dict[str, Any]) -> None:
    assert key_of(CANDIDATE, "", replace(TASK, **changes)) != key_of(CANDIDATE, "", TASK)


def test_where_the_model_lies_does_not_matter() -> None:
    assert key_of(CANDIDATE, "", replace(TASK, model="/elsewhere/name", revision=None)) == key_of(CANDIDATE, "", TASK)


def test_each_form_has_another_key() -> None:
    forms = [
        *((Candidate("a", config), "") for config in (qt.NF4(), qt.FP4(), qt.NF4(double_quant=False), qt.GPTQ())),
        (Candidate("a"), ""),
        *((Candidate("a", path=Path("q")), weights) for weights in ("1", "2")),
    ]
    assert len({key_of(form, weights, TASK) for form, weights in forms}) == len(forms)


def _in_file(text: str, folder: Path) -> str:
    (folder / "text.txt").write_text(text)
    return str(folder / "text.txt")


GIVEN: dict[str, Callable[[str, Path], Any]] = {
    "file": _in_file,
    "list": lambda text, folder: [text],
    "rows": lambda text, folder: [{"text": text}],
    "folder": lambda text, folder: str(Path(_in_file(text, folder)).parent),
    "mixture": lambda text, folder: {_in_file(text, folder): 0.5, "wikitext2": 0.5},
    "token ids": lambda text, folder: torch.tensor([list(text.encode())]),
}


@pytest.mark.parametrize("given", GIVEN.values(), ids=GIVEN)
def test_another_text_to_calibrate_on_of_the_same_name_counts(tmp_path: Path, given: Callable[..., Any]) -> None:
    def key(text: str) -> str:
        return key_of(Candidate("a", qt.GPTQ(calibration=given(text, tmp_path))), "", TASK)

    assert key("a bee") == key("a bee") != key("a cow")


RESULT = Compared("NF4()", "nf4", {"double_quant": True}, "cpu", footprint=12, answers=("an answer",), seconds=0.5)


def test_a_result_comes_back_by_its_label(tmp_path: Path) -> None:
    ResultCache(tmp_path).write("key", RESULT)
    kept = ResultCache(tmp_path)
    assert kept.read({"./folder": "key", "other": "no such key"}) == {"./folder": replace(RESULT, label="./folder")}
    assert kept.notes() == ("1 result was kept by an earlier call: resume=False measures anew",)


def test_what_failed_is_tried_again(tmp_path: Path) -> None:
    ResultCache(tmp_path).write("key", replace(RESULT, error="OSError: no"))
    assert ResultCache(tmp_path).read({"NF4()": "key"}) == {}


DAMAGED = {
    "cut": b'{"record": "Comp',
    "no text": b"\xff\xfe",
    "another record": json.dumps({"record": "Plan"}).encode(),
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_file_is_passed_over_and_told(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "key.json").write_bytes(content)
    kept = ResultCache(tmp_path)
    assert kept.read({"NF4()": "key"}) == {}
    assert kept.notes() == ("1 result was kept by an earlier call, could not be read, and measured again",)
    kept.write("key", RESULT)
    assert ResultCache(tmp_path).read({"NF4()": "key"}) == {"NF4()": RESULT}


def test_what_cannot_be_kept_is_told_and_lost_to_nobody(tmp_path: Path) -> None:
    kept = ResultCache(tmp_path / "kept")
    (tmp_path / "kept").rmdir()
    kept.write("key", RESULT)
    assert kept.notes() == ("not all results could be kept (No such file or directory)",)


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="name another folder as output="):
        ResultCache(tmp_path / "file" / "kept")


def test_results_are_kept_in_the_users_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    ResultCache(None).write("key", RESULT)
    assert (tmp_path / "qtoolkit" / "comparisons" / "key.json").exists()
