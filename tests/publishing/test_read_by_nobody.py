"""A result that no other program runs says so: plan, report, card and conversion, with the nearest that one runs."""

from pathlib import Path
from typing import Any

import pytest

import qtoolkit as qt
from qtoolkit.publishing.artifact import open_artifact
from qtoolkit.publishing.card import make_card
from qtoolkit.publishing.contract_check import stored_in
from qtoolkit.records import Verification
from qtoolkit.requests import PublishRequest

NOBODY = "no other program runs the result"


def told(notes: tuple[str, ...]) -> list[str]:
    return [note for note in notes if note.startswith(NOBODY)]


def card_of(folder: Path) -> str:
    artifact = open_artifact(folder)
    assert artifact.receipt is not None
    request = PublishRequest(str(folder), "me/tiny", license="apache-2.0")
    return str(make_card(artifact.receipt, Verification(folder.name, ()), request, stored=stored_in(artifact)))


@pytest.mark.parametrize(
    ("config", "near"),
    [
        (qt.AbsMax(format="native"), "AbsMax() makes one for transformers, vLLM"),
        (
            qt.GPTQ(format="compressed-tensors", embeddings=8),
            "GPTQ(format='mlx', group_size=64, embeddings=8) makes one for mlx-lm, LM Studio",
        ),
        (qt.AbsMax(), None),
        (qt.NF4(), None),
    ],
)
def test_a_plan_says_so_once_and_names_the_nearest_config(base: Path, config: Any, near: str | None) -> None:
    assert told(qt.plan(base, config, machine="a100-80", device="cpu").notes) == ([f"{NOBODY}: {near}"] if near else [])


def test_report_and_card_say_so(made: dict[str, Path]) -> None:
    (note,) = told(qt.load(made["absmax"], device="cpu").receipt.notes)  # type: ignore[union-attr]
    assert note == f"{NOBODY}: AbsMax() makes one for transformers, vLLM"
    assert note in card_of(made["absmax"])
    assert "None of them runs it: load it with qtoolkit." in card_of(made["absmax"])
    for name in ("gptq", "nf4"):
        assert "None of them runs it" not in card_of(made[name])


def test_a_conversion_says_so_and_names_the_formats_of_the_same_codes(base: Path, tmp_path: Path) -> None:
    qt.quantize(base, qt.AbsMax(), device="cpu", output=tmp_path / "packed")
    assert not told(qt.convert(tmp_path / "packed", "gptq", tmp_path / "gptq").notes)
    (note,) = told(qt.convert(tmp_path / "packed", "native", tmp_path / "native").notes)
    assert note.startswith(f"{NOBODY}: format='gptq' holds the same codes for transformers, vLLM, gptqmodel")
