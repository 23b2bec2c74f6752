"""Memory that runs out in the middle of a verb, each of them, is one line with what to do."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import qtoolkit as qt
from qtoolkit.errors import InsufficientMemoryError
from tests.methods.gptq.jobs import TEXTS

SIZES: dict[str, Any] = {"text": TEXTS, "seq_len": 32, "num_tokens": 64}
VERBS: dict[str, Callable[[Path, Path], object]] = {
    "plan": lambda model, made: qt.plan(model, "nf4", device="cpu"),
    "recommend": lambda model, made: qt.recommend(model),
    "quantize": lambda model, made: qt.quantize(model, "nf4", device="cpu"),
    "load": lambda model, made: qt.load(made, device="cpu"),
    "evaluate": lambda model, made: qt.evaluate(made, base=model, **SIZES, device="cpu"),
    "compare": lambda model, made: qt.compare(model, ["absmax"], **SIZES),
    "run_tasks": lambda model, made: qt.run_tasks(made, "arc_easy"),
    "verify": lambda model, made: qt.verify(made),
    "publish": lambda model, made: qt.publish(made, "me/x", license="mit", dry_run=True),
    "find_models": lambda model, made: qt.find_models(str(model), hub=False),
    "doctor": lambda model, made: qt.doctor(),
}


@pytest.fixture(scope="module")
def made(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "out"
    qt.quantize(tiny_llama, "absmax", device="cpu", output=folder)
    return folder


def run_out(*_: object, **__: object) -> None:
    raise MemoryError


@pytest.mark.parametrize("verb", VERBS)
def test_each_verb_tells_in_one_line(verb: str, tiny_llama: Path, made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # All but one read a config or a receipt; that one asks how much memory there is.
    monkeypatch.setattr(json, "loads", run_out)
    if verb == "doctor":
        monkeypatch.setattr("qtoolkit.measure.host.free_disk", run_out)
    with pytest.raises(InsufficientMemoryError, match=r"^memory.* ran out in .* \(.*MemoryError.*\): .+") as caught:
        VERBS[verb](tiny_llama, made)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("part", ["save", "generate"])
def test_a_model_that_is_there_tells_it_too(
    part: str, tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quantized = qt.quantize(tiny_llama, "absmax", device="cpu")
    monkeypatch.setattr(type(quantized.model), "state_dict", run_out)
    monkeypatch.setattr(quantized.model, "generate", run_out)
    act = {"save": lambda: quantized.save(tmp_path / "out"), "generate": lambda: quantized.generate("a")}[part]
    with pytest.raises(InsufficientMemoryError, match=r"^memory.* ran out in .* \(MemoryError\): .+"):
        act()
