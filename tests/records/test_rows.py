"""What the rows of the records say."""

from dataclasses import replace

import pytest

from qtoolkit.records import (
    Advice,
    LayerPlan,
    Machine,
    MemoryReport,
    ModelSource,
    PeakMemory,
    PhasePlan,
    Plan,
    ProgressEvent,
    QuantizationReport,
    Row,
    Term,
)

pytestmark = pytest.mark.once

SOURCE = ModelSource(
    "org/name", "/cache/x", "c" * 40, "safetensors", "LlamaForCausalLM", "bfloat16", 1_000_000, 2_000_000, 2_001_000
)
LAYER = LayerPlan("model.layers.0.q_proj", (64, 64), 4096, 8192, 2180, 2180)
SKIPPED = replace(LAYER, name="lm_head", bytes_after=8192, disk_bytes=8192, skipped="excluded by name")
SMALLER = "group_size 64 instead of 100, which does not divide"
ADJUSTED = replace(LAYER, adjusted=SMALLER)
MEMORY = MemoryReport(1_000_000, 2_000_000, 600_000)
PHASES = (
    PhasePlan(
        "quantize",
        (Term("this process now", 4_000_000, ""), Term("quantized model", 1_000_000, "")),
        seconds=(1.0, 9.0),
    ),
    PhasePlan("save", (Term("this process now", 4_000_000, ""),), disk=650_000),
)
INFERENCE = PhasePlan("inference with 4096 tokens", (Term("keys and values", 7_000_000, ""),))
PLAN = Plan(
    SOURCE, "nf4", {"double_quant": True}, "cpu", (LAYER,) * 14, (SKIPPED,), 600_000, 650_000, PHASES, INFERENCE
)
REPORT = QuantizationReport(SOURCE, "nf4", {"bits": 4}, "cpu", (LAYER,), (SKIPPED,), (), MEMORY, None, 3.21)


def found(record: Plan | QuantizationReport | MemoryReport | ModelSource, label: str) -> list[tuple[str, str]]:
    return [(row.value, row.note) for row in record.rows() if row.label == label]


@pytest.mark.parametrize("record", [PLAN, REPORT], ids=["plan", "report"])
def test_the_layers_are_told_alike_before_and_after(record: Plan | QuantizationReport) -> None:
    norm = replace(SKIPPED, name="norm", skipped="norm")
    changed = replace(record, layers=(LAYER, ADJUSTED, ADJUSTED), skipped=(SKIPPED, norm, norm))
    assert found(changed, "quantized layers") == [("3", "")]
    assert found(changed, "adjusted") == [("2 layers", SMALLER)]
    assert found(changed, "skipped") == [("1 module", "excluded by name"), ("2 modules", "norm")]
    one = replace(record, layers=(ADJUSTED, LAYER), skipped=())
    assert found(one, "adjusted") == [("1 layer", SMALLER)]
    assert found(one, "skipped") == []


@pytest.mark.parametrize("record", [PLAN, REPORT], ids=["plan", "report"])
def test_the_share_of_quantized_weights_comes_first(record: Plan | QuantizationReport) -> None:
    counts = f"{4096 * len(record.layers):,} of 1,000,000"
    first = Row("quantized weights", f"{0.4096 * len(record.layers):.1f} %", counts)
    assert record.rows()[0] == first
    warned = replace(record, warnings=("little", "and large"))
    assert warned.rows()[:3] == (first, Row("warning", "little"), Row("warning", "and large"))
    # What an earlier version wrote has no warnings.
    values = {name: value for name, value in record.to_dict().items() if name != "warnings"}
    assert type(record).from_dict(values) == record


def test_a_source_is_told_with_its_commit() -> None:
    assert SOURCE.rows() == (
        Row("model", "org/name", f"commit {'c' * 40}"),
        Row("architecture", "LlamaForCausalLM"),
        Row("parameters", "1,000,000", "safetensors, bfloat16"),
        Row("footprint", "2.0 MB"),
        Row("on disk", "2.0 MB"),
    )
    loaded = replace(SOURCE, commit_hash=None, disk_size=None)
    assert loaded.rows()[0] == Row("model", "org/name")
    assert found(loaded, "on disk") == []


def test_a_plan_compares_what_will_be_with_what_is() -> None:
    assert found(PLAN, "method") == [("nf4", "double_quant=True")]
    assert found(PLAN, "footprint before") == [("2.0 MB", "")]
    assert found(PLAN, "footprint after") == [("600.0 kB", "30.0 % of before")]
    assert found(PLAN, "bits per weight") == [("4.800", "")]
    assert found(PLAN, "phase quantize") == [("memory 5.0 MB, 1.0 s to 9.0 s", "")]
    assert found(PLAN, "phase save") == [("memory 4.0 MB, disk 650.0 kB", "")]
    assert found(PLAN, "peak resident memory") == [("5.0 MB", "predicted, in the phase quantize")]
    assert found(PLAN, "peak GPU memory") == found(PLAN, "verdict") == []
    assert found(PLAN, "to use the result") == [("memory 7.0 MB", "inference with 4096 tokens")]


def test_a_plan_for_a_machine_tells_its_verdict() -> None:
    judged = replace(PLAN, machine=Machine("t4", 10**10))
    assert found(judged, "verdict") == [("fits", "t4")]
    tight = replace(judged, tight=("memory: 9 of 10",))
    assert (found(tight, "verdict"), found(tight, "tight")) == ([("tight", "t4")], [("memory: 9 of 10", "")])
    advice = Advice("Int8()", True, 1_000, 2_000, 3_000_000, 4_000_000, 4.5)
    short = replace(tight, problems=("too little",), advice=(advice, replace(advice, change="NF4()", fits=False)))
    assert found(short, "verdict") == [("does not fit", "t4")]
    assert found(short, "would fit") == [("Int8()", "memory 3.0 MB, GPU 4.0 MB, result 1.0 kB")]
    assert found(short, "would not fit") == [("NF4()", "memory 3.0 MB, GPU 4.0 MB, result 1.0 kB")]


def test_a_layer_is_told_by_its_size_or_why_it_stays() -> None:
    assert LAYER.rows() == (Row("model.layers.0.q_proj", "8.2 kB -> 2.2 kB", "[64, 64]"),)
    assert ADJUSTED.rows()[0].note == SMALLER
    assert SKIPPED.rows()[0].value == "excluded by name"


def test_a_report_tells_notes_and_where_it_was_saved() -> None:
    told = replace(REPORT, notes=("one", "two"), path="/out", seconds=75.0)
    assert found(told, "note") == [("one", ""), ("two", "")]
    assert found(told, "saved to") == [("/out", "")]
    assert found(told, "whole job") == [("1 min 15 s", "")]
    assert found(REPORT, "saved to") == [("not saved", "")]


def test_memory_stands_beside_what_was_predicted() -> None:
    peak = PeakMemory(1_000_000, 2_000_000, 9_000_000, "kernel's mark", None, None, None, 2.0)
    told = MemoryReport(1_000_000, 2_000_000, 500_000, 510_000, 2_100_000, 550_000, 560_000, 8_000_000, peak)
    assert found(told, "footprint after") == [("500.0 kB", "predicted 510.0 kB")]
    assert found(told, "ratio") == [("4.00 times smaller", "4.000 bits per weight")]
    assert found(told, "on disk after") == [("550.0 kB", "predicted 560.0 kB")]
    assert found(told, "peak resident") == [("9.0 MB", "kernel's mark, predicted 8.0 MB")]
    larger = MemoryReport(10, 100, 200)
    assert found(larger, "ratio")[0][0] == "2.00 times larger"
    assert found(larger, "on disk after") == []


def test_a_model_without_weights_is_told_too() -> None:
    nothing = MemoryReport(0, 0, 0)
    assert nothing.ratio == 1
    assert [row.label for row in nothing.rows()] == ["footprint before", "footprint after"]
    plan = replace(PLAN, source=replace(SOURCE, footprint=0, num_parameters=0), footprint_after=0)
    assert found(plan, "footprint after") == [("0 bytes", "")]


def test_cuda_is_told_where_there_is_cuda() -> None:
    peak = PeakMemory(1, 2, 3, "samples", 5_000_000, 1_000_000, 6_000_000, 2.0, "torch's mark")
    rows = {row.label: (row.value, row.note) for row in peak.rows()}
    assert rows["peak CUDA allocated"] == ("5.0 MB", "torch's mark")
    assert rows["CUDA allocated after"] == ("1.0 MB", "6.0 MB reserved")
    without = replace(peak, peak_vram=None, vram_after=None, vram_reserved=None)
    assert not [row for row in without.rows() if "CUDA" in row.label]


def test_an_event_is_one_line() -> None:
    event = ProgressEvent("save", 3, 9, "bytes", "model.safetensors")
    assert str(event) == "ProgressEvent\n  save  3 of 9 bytes  (model.safetensors)"
    assert repr(event) == str(event)


def test_a_report_says_first_what_was_won_and_what_to_do_next() -> None:
    sentence = (
        "2.0 MB to 600.0 kB in memory, 3.33 times smaller; 1 of 2 modules quantized; saved to small. "
        "Quality is not measured yet: %qeval or qt.evaluate does it."
    )
    saved = replace(REPORT, path="small")
    assert saved.headline() == sentence
    assert str(saved).splitlines()[1].strip() == sentence
    assert "; not saved. " in REPORT.headline()


def test_who_takes_a_report_for_the_model_is_told_where_that_is() -> None:
    with pytest.raises(
        AttributeError, match=r"no attribute 'generate': it tells .*`--into q` keeps .*qt\.load\('small'\)"
    ):
        replace(REPORT, path="small").generate("a")
    with pytest.raises(AttributeError, match=r"no attribute 'memry'$"):
        _ = REPORT.memry


def test_a_plan_says_first_whether_it_fits() -> None:
    sizes = "2.0 MB to 600.0 kB in memory, 3.33 times smaller, 14 of 15 modules"
    machine = Machine("My t4", 3_000_000, (), has_bfloat16=True, cache_disk=1, output_disk=1)
    assert PLAN.headline() == f"{sizes}. A forecast: nothing is done yet, %quantize or qt.quantize does it."
    assert (
        replace(PLAN, machine=machine).headline()
        == f"Fits My t4: {sizes}. A forecast: nothing is done yet, %quantize or qt.quantize does it."
    )
    short = replace(PLAN, machine=machine, problems=("quantize needs 5.0 MB", "another"))
    assert short.headline().startswith(f"Does not fit My t4: {sizes}; quantize needs 5.0 MB. A forecast")
    assert "My t4 has" in short.picture() and "My t4 has" not in PLAN.picture()


def test_a_phase_that_comes_twice_is_told_apart() -> None:
    twice = replace(PLAN, phases=(*PLAN.phases[:1], *PLAN.phases[:1]))
    name = f"phase {PLAN.phases[0].name}"
    assert [row.label for row in twice.rows() if row.label.startswith("phase")] == [name, f"{name} again"]
