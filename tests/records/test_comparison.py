"""A comparison as a record: the best, the table, the pictures, and files that others read."""

import csv
import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from qtoolkit.errors import OutputError
from qtoolkit.records import Compared, Comparison, ModelSource, QualityReport, SpeedReport, in_order
from tests.records.test_html import drawn_in

pytestmark = pytest.mark.once

SOURCE = ModelSource("org/name", None, None, "safetensors", "LlamaForCausalLM", "bfloat16", 1000, 2000, 2100)
SPEED = SpeedReport("cpu", 128, 32, 3, 0.5, 12.5, (12.0, 13.0), 256.0, (200.0, 300.0))


def quality(kl_divergence: float, **changes: Any) -> QualityReport:
    shape: dict[str, Any] = {"num_windows": 4, "seq_len": 32, "stride": 32, "begins_with": "", "num_tokens": 124}
    figures = {"perplexity": 20.0, "perplexity_se": 0.5, "base_perplexity": 19.0, "kl_divergence_se": 0.001}
    return QualityReport(
        "m", "b", "text", "f" * 64, **shape, **figures | {"kl_divergence": kl_divergence, "speed": SPEED} | changes
    )


def result(label: str, kl_divergence: float, size: int, **changes: Any) -> Compared:
    method = "full precision" if label == "full precision" else label.lower()
    sizes = {"footprint": size, "memory": size + 100, "disk": size, "bits_per_weight": 8 * size / 1000}
    return Compared(label, method, {"bits": 4}, "cpu", **sizes, quality=quality(kl_divergence), **changes)  # type: ignore[arg-type]


RESULTS = (
    result("small", 0.5, 400, answers=("it is small", "so")),
    result("full precision", 0.0, 2000, answers=("it is full", "so")),
    result("middle", 0.1, 800, answers=("it is middling", "so"), retries=1),
    Compared("broken", "gptq", {}, "cpu", error="ConfigError: no"),
    replace(result("odd", math.nan, 300)),
)
COMPARISON = Comparison(SOURCE, "text", "f" * 64, in_order(RESULTS), ("What is it?", "And?"))


def test_the_least_lost_comes_first_and_what_failed_last() -> None:
    assert [result.label for result in COMPARISON.results[:3]] == ["full precision", "middle", "small"]
    assert {result.label for result in COMPARISON.results[3:]} == {"broken", "odd"}


@pytest.mark.parametrize(
    ("limit", "best"), [(None, "middle"), (900, "middle"), (899, "small"), (500, "small"), (499, None)]
)
def test_the_best_keeps_the_limit(limit: int | None, best: str | None) -> None:
    found = replace(COMPARISON, memory_limit=limit)
    assert (found.best.label if found.best else None) == best
    (row,) = [row for row in found.rows() if row.label == "best"]
    assert row.value == (best or "none")
    assert (f"at most {limit} bytes" in row.note) == (limit is not None)


def test_every_result_is_a_line_of_the_table_in_text_and_html() -> None:
    table, first, second = COMPARISON.grids()
    assert [line[0] for line in table.lines] == [result.label for result in COMPARISON.results]
    assert all(len(line) == len(table.header) for line in table.lines)
    assert first.title == "after 'What is it?'"
    assert first.lines[1] == ("middle", "it is middling")
    assert second.lines[0] == ("full precision", "so")
    for cell in (cell for grid in COMPARISON.grids() for line in grid.lines for cell in line):
        assert cell in str(COMPARISON)
        assert cell in COMPARISON._repr_html_()
    assert "0.1000 ± 0.0010" in table.lines[1]
    assert table.lines[1][-1] == "begun again once"
    assert "ConfigError: no" in {line[-1] for line in table.lines}


def drawn(comparison: Comparison) -> str:
    """The SVG in the image of a comparison."""
    found = re.search(r'src="([^"]+)"', comparison.picture())
    assert found is not None
    return drawn_in(found[1])


def test_both_pictures_are_there_and_show_no_figure_that_the_table_lacks() -> None:
    picture = COMPARISON.picture()
    assert '<img alt="KL divergence against size"' in picture
    assert ">Tokens written in a second</caption>" in picture
    assert picture.count("12.5 tokens/s") == 4
    # No colour but the page's own, one grey in the image, and the bars with their track: JupyterLab shows a notebook of
    # somebody else without `currentColor`.
    assert "#" not in picture
    assert set(re.findall(r"rgba?\([^)]*\)", picture)) == {"rgb(74,139,208)", "rgba(128,128,128,0.2)"}
    assert set(re.findall(r"#\w+", drawn(COMPARISON))) == {"#777777"}
    assert "<script" not in picture and "http" not in picture


@pytest.mark.parametrize(
    "results", [(), RESULTS[3:4], RESULTS[:1], RESULTS[:1] * 2], ids=["none", "failed", "one", "equal"]
)
def test_a_comparison_of_little_is_drawn(results: tuple[Compared, ...]) -> None:
    found = replace(COMPARISON, results=results)
    assert "org/name" in str(found)
    assert found._repr_html_().startswith("<div>")


def test_the_noise_floor_is_drawn_where_it_is_known() -> None:
    known = replace(RESULTS[0], quality=quality(0.5, noise_floor=0.002))
    assert "noise floor" in drawn(replace(COMPARISON, results=(known,)))
    assert "noise floor" not in drawn(COMPARISON)


def test_a_data_frame_has_raw_figures() -> None:
    frame = COMPARISON.to_dataframe()
    assert list(frame["label"]) == [result.label for result in COMPARISON.results]
    middle = frame.set_index("label").loc["middle"]
    assert (middle["footprint"], middle["memory"], middle["kl_divergence"]) == (800, 900, 0.1)
    assert (middle["tokens_per_second"], middle["answer_1"], middle["retries"]) == (12.5, "it is middling", 1)
    assert json.loads(middle["settings"]) == {"bits": 4}


def test_csv_is_read_by_others(tmp_path: Path) -> None:
    path = COMPARISON.to_csv(tmp_path / "c.csv")
    with path.open(newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert [line["label"] for line in lines] == [result.label for result in COMPARISON.results]
    assert (lines[1]["footprint"], float(lines[1]["kl_divergence"])) == ("800", 0.1)
    assert lines[-1]["footprint"] in ("", "300")


def test_json_is_read_back(tmp_path: Path) -> None:
    sound = replace(COMPARISON, results=COMPARISON.results[:3])
    path = sound.to_json(tmp_path / "c.json")
    assert Comparison.from_dict(json.loads(path.read_text(encoding="utf-8"))) == sound


@pytest.mark.parametrize("write", [Comparison.to_csv, Comparison.to_json], ids=["csv", "json"])
def test_a_file_that_cannot_be_written_is_told(tmp_path: Path, write: Any) -> None:
    with pytest.raises(OutputError, match="name another file"):
        write(COMPARISON, tmp_path / "no such folder" / "c")


@pytest.mark.parametrize("write", [Comparison.to_csv, Comparison.to_json], ids=["csv", "json"])
def test_a_file_that_stands_there_is_replaced_whole(tmp_path: Path, write: Any) -> None:
    (tmp_path / "c").write_text("mine")
    write(COMPARISON, tmp_path / "c")
    assert "middle" in (tmp_path / "c").read_text(encoding="utf-8")
    assert [file.name for file in tmp_path.iterdir()] == ["c"]


@pytest.mark.parametrize(
    ("limit", "said"),
    [
        (None, "middle loses least of all quantized forms: KL divergence 0.1000 ± 0.0010 nats, 800 bytes of weight "),
        (899, "small loses least of all quantized forms that take at most 899 bytes: KL divergence 0.5000 ± 0.0010 "),
        (499, "There are no quantized forms that take at most 499 bytes. 1 failed: the remark says why."),
    ],
)
def test_it_is_told_in_one_sentence_first(limit: int | None, said: str) -> None:
    found = replace(COMPARISON, memory_limit=limit).headline()
    assert found.startswith(said) and found.endswith(" 1 failed: the remark says why.")


@pytest.mark.parametrize(
    ("share", "places"),
    [(0.754, "75 of 100"), (0.9996, "more than 99 of 100"), (1.0, "100 of 100"), (0.0, "0 of 100")],
    ids=["some", "nearly all", "all", "none"],
)
def test_of_one_form_it_is_told_how_often_it_agrees(share: float, places: str) -> None:
    measured = quality(0.1, same_top_p=share, same_top_p_se=0.01)
    alone = replace(COMPARISON, results=(RESULTS[1], replace(RESULTS[2], quality=measured)))
    figures = "KL divergence 0.1000 ± 0.0010 nats, 800 bytes of weight files."
    same = f"the same likeliest token as full precision in {places} places"
    assert alone.headline() == f"middle has {same}: {figures}"
    several = replace(alone, results=(*alone.results, RESULTS[0])).headline()
    assert several == f"middle loses least of all quantized forms: {same}, {figures}"


def test_few_figures_stand_beside_those_of_full_precision() -> None:
    measured = quality(0.1, same_top_p=0.75, perplexity=20.25)
    found = replace(COMPARISON, results=in_order((*RESULTS[:2], replace(RESULTS[2], quality=measured), RESULTS[3])))
    grid = found.overview()
    assert grid.header == ("model", "weight files", "same likeliest token", "KL divergence", "perplexity", "writes")
    assert grid.lines == (
        ("full precision", "2.1 kB", "", "", "19", "12.5 tokens/s"),
        ("middle", "800 bytes, 2.62 times smaller", "75 of 100 places", "0.1 nats", "20.25", "12.5 tokens/s"),
        ("small", "400 bytes, 5.25 times smaller", "", "0.5 nats", "20", "12.5 tokens/s"),
        ("broken: failed", "", "", "", "", ""),
    )


def test_full_precision_has_its_line_also_where_nobody_asked_for_it_and_no_column_is_empty() -> None:
    unmeasured = replace(RESULTS[0], quality=quality(0.5, speed=None), disk=4200)
    grid = replace(COMPARISON, results=(unmeasured,)).overview()
    assert grid.header == ("model", "weight files", "KL divergence", "perplexity")
    assert grid.lines == (
        ("full precision", "2.1 kB", "", "19"),
        ("small", "4.2 kB, 2.00 times larger", "0.5 nats", "20"),
    )
