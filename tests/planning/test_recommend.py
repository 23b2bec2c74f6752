"""Which model in which form: the order by each goal, and what fits."""

import pytest

import qtoolkit as qt
from qtoolkit.errors import ConfigError
from qtoolkit.records import Candidate, Recommendation
from qtoolkit.units import parse_bytes
from tests.sample_models import config_of

pytestmark = pytest.mark.slow

LARGE = "LlamaConfig of 13.02 billion parameters"
SMALL = "LlamaConfig of 6.74 billion parameters"


def of(memory: str, goal: str = "quality") -> Recommendation:
    return qt.recommend([config_of("7b"), config_of("13b")], memory=memory, goal=goal, machine="a100-80")


def best(found: Recommendation) -> Candidate:
    assert found.best is not None
    return found.best


def test_a_larger_model_in_4_bits_comes_before_a_smaller_one_as_it_is() -> None:
    found = of("16 GB")
    assert (best(found).model, best(found).config) == (LARGE, "GPTQ()")
    as_it_is = next(c for c in found.candidates if (c.model, c.config) == (SMALL, "full precision"))
    assert as_it_is.fits
    assert as_it_is.memory > best(found).memory


def test_with_enough_memory_the_larger_model_stays_as_it_is() -> None:
    assert (best(of("40 GB")).model, best(of("40 GB")).config) == (LARGE, "full precision")


def test_three_bits_come_after_a_smaller_model_with_more() -> None:
    order = [(candidate.model, candidate.config) for candidate in of("40 GB").candidates]
    assert order.index((LARGE, "GPTQ(bits=3)")) > order.index((SMALL, "NF4()"))


def test_the_smallest() -> None:
    found = of("40 GB", "size")
    footprints = [candidate.footprint for candidate in found.candidates]
    assert footprints == sorted(footprints)
    assert best(found).model == SMALL


def test_what_does_not_fit_comes_last() -> None:
    fits = [candidate.fits for candidate in of("9 GB").candidates]
    assert fits == sorted(fits, reverse=True) and {True, False} == set(fits)


@pytest.mark.parametrize("program", ["llama.cpp", "Ollama", "LM Studio"])
def test_programs_of_gguf_files_are_recommended_some(program: str) -> None:
    """With the sizes of their plans."""
    found = qt.recommend(config_of("7b"), memory="40 GB", machine="a100-80", for_=program)
    files = {one.config: one for one in found.candidates if one.config.startswith("GGUF")}
    for name, config in {
        "GGUF()": "Q4_K_M",
        "GGUF(quant_type='Q5_K_M')": "Q5_K_M",
        "GGUF(quant_type='Q8_0')": "Q8_0",
    }.items():
        plan = qt.plan(config_of("7b"), qt.GGUF(config), machine="a100-80")
        assert (files[name].disk, files[name].footprint) == (plan.disk_after, plan.footprint_after)
    assert [*files] == ["GGUF(quant_type='Q8_0')", "GGUF(quant_type='Q5_K_M')", "GGUF()"]
    assert found.best is not None and found.best.config == "GGUF(quant_type='Q8_0')"


@pytest.mark.parametrize("program", [None, "transformers", "qtoolkit"])
def test_what_expands_a_file_is_recommended_none(program: str | None) -> None:
    """Its size says nothing of what it takes there."""
    found = qt.recommend(config_of("7b"), memory="40 GB", machine="a100-80", for_=program)
    assert found.candidates and not any(one.config.startswith("GGUF") for one in found.candidates)
    assert any("GGUF is compared with for_='llama.cpp'" in note for note in found.notes) is (program is None)


def test_nothing_fits() -> None:
    found = of("1 GB")
    assert found.best is None
    assert "none of these fits" in str(found)


def test_sizes_are_those_of_the_plan() -> None:
    found = qt.recommend(config_of("7b"), machine="t4")
    plan = qt.plan(config_of("7b"), "nf4", machine="t4")
    candidate = next(c for c in found.candidates if c.config == "NF4()")
    assert (candidate.footprint, candidate.disk) == (plan.footprint_after, plan.disk_after)
    assert candidate.memory == plan.inference.peak_vram
    assert plan.machine is not None and found.memory == plan.machine.vram[0]


@pytest.mark.parametrize(
    ("text", "size"),
    [("8 GB", 8 * 10**9), ("1.5GiB", 1_610_612_736), ("500 MB", 5 * 10**8), ("12", 12), (12, 12), ("3k", 3000)],
)
def test_sizes_in_words(text: str | int, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["much", "", "-1 GB", "0", "8 XB"])
def test_no_size_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="is no size: write it as 8 GB"):
        parse_bytes(text)


def test_an_unknown_goal_is_refused() -> None:
    with pytest.raises(ConfigError, match="goal must be one of quality, size, speed, got 'fun'"):
        of("8 GB", "fun")


def for_program(for_: str | None) -> dict[str, Candidate]:
    found = qt.recommend(config_of("7b"), memory="80 GB", machine="a100-80", for_=for_)
    return {candidate.config: candidate for candidate in found.candidates}


@pytest.mark.parametrize("server", ["vllm", "sglang", "vLLM 0.33"])
def test_eight_bits_with_rounded_inputs_are_for_the_servers_that_multiply_so(server: str) -> None:
    found = for_program(server)
    for config, rounded in (("FP8()", "float8"), ("W8A8()", "int8")):
        assert found[config].quality.endswith(f"inputs rounded to {rounded}")
        assert 1 < (found[config].perplexity_ratio or 0) < 1.1
        assert "vLLM, SGLang" in found[config].served_by
    assert found["GPTQ()"].quality and "inputs" not in found["GPTQ()"].quality


@pytest.mark.parametrize("other", [None, "transformers", "gptqmodel", "llama.cpp", "mlx-lm", "vllm==0.5.1"])
def test_nobody_else_is_offered_them(other: str | None) -> None:
    assert not {"FP8()", "W8A8()"} & set(for_program(other))


def test_an_older_server_is_offered_what_it_loads() -> None:
    """vLLM's int8 scheme is older than its float8 with a scale an output: 0.5.2 and 0.5.3."""
    found = for_program("vllm==0.5.2")
    assert "W8A8()" in found and "FP8()" not in found
