"""A plan tells which programs will load its result; a job is refused for one that would not."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import OPTConfig

import qtoolkit as qt
from qtoolkit.errors import ConfigError
from qtoolkit.records import Plan
from tests.sample_models import config_of, random_model

MACHINE: dict[str, Any] = {"machine": "a100-80"}


# Of sizes that all kernels take.
SIZES = {"hidden_size": 128, "intermediate_size": 256, "num_attention_heads": 4, "num_key_value_heads": 2}


def planned(config: Any, for_: str | None, **options: Any) -> Plan:
    return qt.plan(random_model("llama", **SIZES), config, machine="cpu-12gb", device="cpu", for_=for_, **options)


REFUSED = [
    (qt.GPTQ(bits=3), "vllm", "GPTQ(format='compressed-tensors', bits=3"),
    (qt.GPTQ(sym=False), "sglang", "GPTQ(format='compressed-tensors'"),
    (qt.GPTQ(bits=3), "sglang", "GPTQ()"),
    (qt.GPTQ(format="compressed-tensors", embeddings=8), "transformers", "GPTQ(format='compressed-tensors')"),
    (qt.GPTQ(rules={"*.q_proj": {"bits": 8}}), "auto-gptq", "GPTQ(bits=8"),
    (qt.NF4(), "vllm", "GPTQ("),
]


@pytest.mark.parametrize(("config", "reader", "advised"), REFUSED)
def test_a_refused_result_comes_with_a_config_that_is_loaded(config: Any, reader: str, advised: str) -> None:
    plan = planned(config, reader)
    assert plan.reading is not None and not plan.reading.loads
    assert any(advice.change.startswith(advised) for advice in plan.advice), plan.advice
    other = eval(plan.advice[0].change, {name: getattr(qt, name) for name in ("GPTQ", "NF4")})  # noqa: S307
    loaded = planned(other, reader)
    assert loaded.reading is not None and loaded.reading.loads
    assert f"{plan.reading.name}  " in str(plan) and "does not load it" in str(plan)


def test_a_plan_for_nobody_in_particular_has_the_readings_and_tells_what_costs_readers() -> None:
    plan = planned(qt.GPTQ(bits=3), None)
    assert {one.reader for one in plan.readings if one.loads} >= {"auto-gptq", "gptqmodel", "qtoolkit"}
    assert any(note.endswith("; vLLM, SGLang (GPTQ of 3 bits: it takes 4 and 8)") for note in plan.notes)
    assert plan.reading is None
    assert Plan.from_dict(plan.to_dict()) == plan
    assert not any("not loaded" in note for note in planned(qt.GPTQ(), None).notes)


def test_sizes_that_a_program_does_not_take_are_told_once_for_all_layers() -> None:
    small = random_model("llama")
    plan = qt.plan(small, qt.GPTQ(), machine="cpu-12gb", device="cpu", for_="sglang")
    assert plan.reading is not None and not plan.reading.loads
    assert plan.reading.why.startswith("self_attn.o_proj of 64 x 64, where its kernel takes")
    assert sum("of 64 x 64" in note for note in plan.notes) == 1
    # Queries, keys and values are one matrix of 128 x 64, gate and up one of 256 x 64, and down is 64 x 128.
    rest = qt.plan(small, qt.GPTQ(exclude=("*.o_proj",)), machine="cpu-12gb", device="cpu", for_="sglang")
    assert rest.reading is not None and rest.reading.loads


def test_a_mixed_unit_is_a_failed_contract_check() -> None:
    config = qt.GPTQ(rules={"*.v_proj": {"bits": 8}})
    for reader, loads in (("vllm", False), ("sglang", False), ("gptqmodel", True)):
        reading = planned(config, reader).reading
        assert reading is not None and reading.loads == loads
    whole = qt.GPTQ(rules={"*.[qkv]_proj": {"bits": 8}})
    whole_reading, usual = planned(whole, "vllm").reading, planned(qt.GPTQ(), "vllm").reading
    assert whole_reading is not None and usual is not None
    # Layers with different bits came later.
    assert replace(whole_reading, since=usual.since) == usual


def test_a_job_is_refused_before_any_work(tmp_path: Path) -> None:
    said = (
        r"^for_='vllm': vLLM 0\.33\.0 would not load the result \(GPTQ of 3 bits: it takes 4 and 8\): "
        r"give GPTQ\(format='compressed-tensors', bits=3.*\), or leave for_ out$"
    )
    with pytest.raises(ConfigError, match=said):
        qt.quantize(random_model("llama"), qt.GPTQ(bits=3), device="cpu", output=tmp_path / "out", for_="vllm")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("verb", [qt.plan, qt.quantize])
def test_an_unknown_program_is_refused(verb: Any) -> None:
    with pytest.raises(ConfigError, match=r"for_ must be one of transformers, .*got 'vlm'"):
        verb("nowhere", "nf4", for_="vlm")


def test_a_job_for_a_program_that_loads_it_runs(tmp_path: Path) -> None:
    result = qt.quantize(random_model("llama"), qt.NF4(), device="cpu", output=tmp_path / "out", for_="sglang")
    assert result.path is not None


@pytest.mark.parametrize("program", ["llama.cpp", "ollama", "lm-studio"])
def test_a_program_of_files_is_given_a_file(program: str, tmp_path: Path, tiny_llama: Path) -> None:
    with pytest.raises(ConfigError, match=r"would not load the result .*: give GGUF\(\), or leave for_ out$"):
        qt.quantize(str(tiny_llama), qt.NF4(), device="cpu", output=tmp_path / "out", for_=program)
    assert qt.plan(str(tiny_llama), qt.GGUF(), for_=program).reading.loads  # type: ignore[union-attr]


def test_recommendations_name_programs_from_the_table_and_leave_out_what_is_not_loaded() -> None:
    everything = qt.recommend(config_of("7b"), machine="a100-80")
    served = {candidate.config: candidate.served_by for candidate in everything.candidates}
    assert served["NF4()"] == "transformers, SGLang"
    assert served["GPTQ()"] == "transformers, vLLM, SGLang, gptqmodel, auto-gptq"
    assert served["GPTQ(bits=3)"] == "transformers 5, gptqmodel, auto-gptq"
    for_vllm = qt.recommend(config_of("7b"), machine="a100-80", for_="vllm")
    three = "GPTQ(format='compressed-tensors', bits=3)"
    assert {candidate.config for candidate in for_vllm.candidates} == {
        "GPTQ()",
        "GPTQ(bits=8)",
        three,
        "FP8()",
        "W8A8()",
        "full precision",
    }
    assert any("vllm does not load" in note for note in for_vllm.notes)


def test_recommendations_name_a_format_that_the_program_loads() -> None:
    """The codes, and so the quality, are those of the config that is offered."""
    for_macs = {one.config: one for one in qt.recommend(config_of("7b"), machine="a100-80", for_="mlx-lm").candidates}
    usual = {one.config: one for one in qt.recommend(config_of("7b"), machine="a100-80").candidates}
    assert for_macs.keys() == {
        "full precision",
        *(f"GPTQ(format='mlx'{more})" for more in (", bits=8", "", ", bits=3")),
    }
    assert for_macs["GPTQ(format='mlx')"].perplexity_ratio == usual["GPTQ()"].perplexity_ratio


def test_where_nothing_is_loaded_no_size_is_blamed() -> None:
    """llama.cpp loads `.gguf` files alone, and none is written of this architecture."""
    nothing = qt.recommend(OPTConfig(num_hidden_layers=1), machine="a100-80", for_="llama.cpp")
    assert nothing.candidates == () and "the program loads none of the results" in str(nothing)
    assert not any("a format that it loads" in note for note in nothing.notes)
