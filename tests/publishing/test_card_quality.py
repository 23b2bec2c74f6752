"""Figures on a card are of this very model, against its base, with their errors and the text they were measured on."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import HfApi, ModelCard

import qtoolkit as qt
from qtoolkit.errors import ConfigError
from qtoolkit.publishing import read_receipt
from qtoolkit.publishing.card import make_card
from qtoolkit.publishing.card_quality import refuse_foreign_figures
from qtoolkit.records import QualityReport, Receipt, Verification
from qtoolkit.records.markdown import escaped
from qtoolkit.requests import PublishRequest
from tests.evaluation.plain import HELD_OUT
from tests.fake_hub.writable import WritableHub

pytestmark = pytest.mark.slow

REPO = "me/tiny-absmax"
OPTIONS: dict[str, Any] = {"text": [HELD_OUT], "seq_len": 32, "num_tokens": 128, "device": "cpu"}


@pytest.fixture(scope="module")
def quality(made: dict[str, Path], base: Path) -> QualityReport:
    """What a saved model lost."""
    return qt.evaluate(made["absmax"], base=base, **OPTIONS)


@pytest.fixture
def receipt(made: dict[str, Path]) -> Receipt:
    found = read_receipt(made["absmax"])
    assert found is not None
    return found


def card_of(receipt: Receipt, quality: QualityReport) -> ModelCard:
    return ModelCard(str(make_card(receipt, Verification("out", ()), PublishRequest("out", REPO, quality=quality))))


def test_every_figure_stands_there_with_its_error_and_its_text(receipt: Receipt, quality: QualityReport) -> None:
    text = card_of(receipt, quality).text
    assert quality.base_perplexity is not None and quality.perplexity_se is not None
    for label, value in quality.figures():
        assert not value or f"| {label} | {value} |" in text
    assert f"{quality.perplexity:.0f}" in text and f"{quality.base_perplexity:.0f}" in text
    assert "Measured on 1 text: 124 tokens predicted, in 4 windows of 32 with a stride of 32" in text
    assert quality.text_fingerprint[:16] in text
    assert quality.hardware and f"It ran on {quality.hardware}." in text
    assert quality.speed and f"{quality.speed.tokens_per_second:.1f} tokens/s" in text


def test_figures_against_the_hub_are_none_of_a_model_that_was_changed_in_memory(
    receipt: Receipt, quality: QualityReport
) -> None:
    against_hub = replace(quality, base_commit_hash="c" * 40)
    in_memory = replace(receipt, source=replace(receipt.source, format="loaded"))
    refuse_foreign_figures(quality, in_memory)
    refuse_foreign_figures(against_hub, replace(in_memory, source=replace(in_memory.source, commit_hash="c" * 40)))
    with pytest.raises(
        ConfigError, match="made from one in memory that is not known to be that: measure it with base="
    ):
        refuse_foreign_figures(against_hub, in_memory)


def test_without_a_base_there_are_no_figures_of_one(receipt: Receipt, made: dict[str, Path]) -> None:
    alone = qt.evaluate(made["absmax"], **OPTIONS | {"num_tokens": 32}, speed=False)
    text = card_of(receipt, alone).text
    assert "KL divergence" not in text and "| perplexity |" in text and "One window tells no errors." in text


def test_a_text_that_is_no_dataset_of_the_hub_is_no_result_in_the_metadata(
    receipt: Receipt, quality: QualityReport
) -> None:
    assert "model-index" not in card_of(receipt, quality).data.to_dict()


@pytest.mark.parametrize(
    ("text", "dataset"),
    [
        ("wikitext2", ("Salesforce/wikitext", "wikitext-2-raw-v1", "test")),
        ("c4", ("allenai/c4", "en", "validation")),
    ],
)
def test_a_dataset_of_the_hub_is_told_as_its_metadata_has_it(
    receipt: Receipt, quality: QualityReport, writable_hub: WritableHub, text: str, dataset: tuple[str, ...]
) -> None:
    card = card_of(receipt, replace(quality, text=text))
    HfApi()._validate_yaml(str(card))
    asked = [request.status for request in writable_hub.requests if request.path == "/api/validate-yaml"]
    assert asked == [200]
    (result,) = card.data.eval_results or ()
    assert (result.dataset_type, result.dataset_config, result.dataset_split) == dataset
    assert (result.metric_type, result.metric_value) == ("perplexity", quality.perplexity)
    assert result.metric_args == {
        "standard_error": quality.perplexity_se, "num_tokens": 124, "num_windows": 4, "seq_len": 32, "stride": 32
    }  # fmt: skip
    assert card.data.model_name == "tiny-absmax"
    assert f"({', '.join(dataset)} split)" in card.text


def test_no_folder_of_this_machine_gets_onto_the_card(
    made: dict[str, Path], base: Path, tmp_path: Path, quality: QualityReport
) -> None:
    file = tmp_path / "mine.txt"
    file.write_text(HELD_OUT)
    noted = replace(quality, text=str(file), notes=(f"read {Path.home() / 'secret' / 'mine.txt'}",))
    card = qt.publish(made["absmax"], REPO, dry_run=True, quality=noted).card
    assert "mine.txt" in card
    for folder in (tmp_path, base.parent, made["absmax"].parent, Path.home()):
        assert escaped(f"{folder}/") not in card and f"{folder}/" not in card


def others(made: dict[str, Path], base: Path, quality: QualityReport) -> dict[str, tuple[Any, str]]:
    unsaved = qt.evaluate(qt.quantize(base, "absmax", device="cpu"), **OPTIONS, speed=False)
    return {
        "another model": (qt.evaluate(made["zero_point"], **OPTIONS, speed=False), "was measured on other weights"),
        "the base itself": (qt.evaluate(base, **OPTIONS, speed=False), "does not say which saved model"),
        "not saved yet": (unsaved, "does not say which saved model"),
        "against another base": (replace(quality, base="org/other"), "compares with 'org/other', and the base is"),
        "another record": (qt.doctor(), "must be what qt.evaluate returns, got Doctor"),
        "a figure": (12.3, "must be what qt.evaluate returns, got float"),
    }


def test_figures_of_anything_else_are_refused_before_any_work(
    made: dict[str, Path], base: Path, quality: QualityReport, writable_hub: WritableHub
) -> None:
    for name, (foreign, told) in others(made, base, quality).items():
        with pytest.raises(ConfigError) as caught:
            qt.publish(made["absmax"], REPO, quality=foreign)
        assert told in str(caught.value), name
    assert writable_hub.requests == []


def test_a_base_of_another_commit_is_refused(receipt: Receipt, quality: QualityReport) -> None:
    from qtoolkit.publishing.card_quality import refuse_foreign_figures

    pinned = replace(receipt, source=replace(receipt.source, name="org/base", commit_hash="a" * 40))
    for base in ("org/base", "org/base@main", f"/cache/snapshots/{'a' * 40}"):
        refuse_foreign_figures(replace(quality, base=base, base_commit_hash="a" * 40), pinned)
    with pytest.raises(ConfigError, match=r"this model was made from a{40}: give base='org/base@a{40}'"):
        refuse_foreign_figures(replace(quality, base="org/base", base_commit_hash="b" * 40), pinned)


@pytest.mark.parametrize("way", ["loaded again", "in memory when it was saved", "another folder, the same weights"])
def test_figures_of_the_same_weights_are_taken(
    made: dict[str, Path], base: Path, tmp_path: Path, quality: QualityReport, way: str
) -> None:
    model = qt.load(made["absmax"], device="cpu")
    if way != "loaded again":
        model = qt.quantize(base, qt.AbsMax(format="native"), device="cpu", output=tmp_path / "out")
    if way == "another folder, the same weights":
        assert isinstance(model, qt.QuantizedModel)
        model.save(tmp_path / "again")
    again = qt.evaluate(model, base=base, **OPTIONS)
    assert again.weights_fingerprint == quality.weights_fingerprint
    assert again.perplexity == pytest.approx(quality.perplexity)


def test_a_card_of_ones_own_is_not_changed(made: dict[str, Path], tmp_path: Path, quality: QualityReport) -> None:
    import shutil

    folder = shutil.copytree(made["absmax"], tmp_path / "copy")
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n# Mine\n")
    with pytest.raises(ConfigError, match=r"README\.md is published as it is, without quality="):
        qt.publish(folder, REPO, dry_run=True, quality=quality)


def test_a_report_comes_back_from_json(quality: QualityReport) -> None:
    assert QualityReport.from_dict(json.loads(json.dumps(quality.to_dict()))) == quality
