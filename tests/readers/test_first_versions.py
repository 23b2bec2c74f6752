"""From which version on a program loads what: as its wheels have it, asked for by number, and never guessed."""

from dataclasses import replace
from typing import Any

import pytest

import qtoolkit as qt
from qtoolkit.errors import ConfigError
from qtoolkit.methods import stored_of
from qtoolkit.readers import Stored, card_lines, check_reader, readers_of, reading_of
from qtoolkit.readers.table import ENTRIES
from qtoolkit.readers.versions import version_key
from tests.sample_models import random_model

GPTQ = Stored(format="gptq", layout="gptq", bits=(4,), group_sizes=(128,))
PACKED = Stored(format="compressed-tensors", layout="pack-quantized", bits=(4,), group_sizes=(128,))
FLOAT8 = Stored(format="compressed-tensors", bits=(8,), group_sizes=(-1,), input_type="float8")
NF4 = Stored(format="bitsandbytes", bits=(4,))
MLX = Stored(format="mlx", bits=(4,), group_sizes=(64,))

# What the wheels of these versions hold, and those before them do not: see `found` of each row.
FIRST = [
    (GPTQ, "vllm", "0.2.6"),
    (replace(GPTQ, bits=(8,)), "vllm", "0.3.3"),
    (replace(GPTQ, bits=(4, 8)), "vllm", "0.7.3"),
    (GPTQ, "transformers4", "4.32.0"),
    (GPTQ, "gptqmodel", ""),
    (PACKED, "vllm", "0.5.1"),
    (replace(PACKED, sym=False), "vllm", "0.8.5"),
    (replace(PACKED, sym=False, bits=(3,)), "vllm", "0.25.0"),
    *((replace(stored, hidden_experts=True), "vllm", "0.32.0") for stored in (PACKED, FLOAT8)),
    (PACKED, "sglang", "0.5.4"),
    (FLOAT8, "vllm", "0.5.3"),
    (replace(FLOAT8, group_sizes=(128,)), "vllm", "0.11.0"),
    (replace(FLOAT8, group_sizes=(128,)), "sglang", "0.5.6.post1"),
    (MLX, "mlx-lm", "0.0.1"),
    (replace(MLX, bits=(5,)), "mlx-lm", ""),
    (replace(MLX, bits=(4, 8)), "mlx-lm", "0.20.3"),
]


@pytest.mark.parametrize(("stored", "reader", "first"), FIRST)
def test_the_first_version_is_that_of_all_that_a_model_needs(stored: Stored, reader: str, first: str) -> None:
    assert reading_of(reader, readers_of(stored)).since == first


@pytest.mark.parametrize(("granularity", "first"), [("channel", "0.5.3"), ("block", "0.11.0")])
def test_blocks_of_float8_came_later(granularity: str, first: str) -> None:
    """By the config alone, as plans, cards and verify have it."""
    stored = stored_of(qt.FP8(granularity=granularity))
    assert reading_of("vllm", readers_of(stored)).since == first


def test_every_first_version_says_what_was_looked_for_and_where_it_was_missing() -> None:
    for entry in ENTRIES:
        for since in entry.since:
            assert bool(since.version) == bool(since.found), entry
            assert version_key(since.without) < version_key(since.version) or not since.version, entry
            assert bool(since.field) == bool(since.values), entry
        if entry.until:
            assert entry.refused and version_key(entry.until) > version_key(entry.since[0].version)


@pytest.mark.parametrize(
    ("stored", "asked", "why"),
    [
        (GPTQ, "vllm==0.2.6", ""),
        (GPTQ, "vllm 0.10", ""),
        (PACKED, "vllm==0.5.0.post1", "0.5.1 is the first version that is known to load it"),
        (replace(PACKED, bits=(3,)), "vllm==0.10", "0.25.0 is the first version that is known to load it"),
        (replace(GPTQ, bits=(3,)), "vllm==0.10", "GPTQ of 3 bits: it takes 4 and 8"),
        (GPTQ, "gptqmodel==5.6", "which older versions than 7.7.0 load it is not known"),
        (GPTQ, "gptqmodel==7.7.0", ""),
        (NF4, "vllm==0.10", ""),
        (NF4, "vllm==0.28", "vLLM removed bitsandbytes in 0.28.0 (vllm-project/vllm#39583)"),
        (NF4, "vllm==0.5", "vLLM removed bitsandbytes in 0.28.0 (vllm-project/vllm#39583)"),
    ],
)
def test_a_version_is_asked_for(stored: Stored, asked: str, why: str) -> None:
    reading = reading_of(asked, readers_of(stored))
    assert (reading.loads, reading.why) == (not why, why)
    assert reading.version == str(check_reader(asked)).partition("==")[2]


@pytest.mark.parametrize(
    ("spelled", "name"),
    [
        ("vLLM 0.10", "vllm==0.10"),
        ("vllm==0.10.1.post1", "vllm==0.10.1.post1"),
        ("MLX LM v0.30", "mlx-lm==0.30"),
        ("transformers 4.57", "transformers4==4.57"),
        ("transformers==5.2", "transformers==5.2"),
        ("transformers==6.0", "transformers==6.0"),
        ("transformers==3.1", "transformers4==3.1"),
        ("transformers4 4.40", "transformers4==4.40"),
        ("transformers 4", "transformers4"),
    ],
)
def test_a_version_is_known_however_it_is_spelled(spelled: str, name: str) -> None:
    assert check_reader(spelled) == check_reader(name) == name


@pytest.mark.parametrize("odd", ["vllm>=0.10", "vllm==new", "vlm==0.10", "==0.10", "vllm 0.10 or so"])
def test_what_is_no_version_is_refused(odd: str) -> None:
    with pytest.raises(ConfigError, match="for_ must be one of transformers, "):
        check_reader(odd)
    with pytest.raises(ConfigError, match="versions of LM Studio are not told apart: give 'lm-studio'"):
        check_reader("LM Studio 0.3")


def test_versions_are_ordered_by_their_numbers() -> None:
    ordered = ["0.2.6", "0.9.2", "0.10", "0.10.1", "0.10.1.post1", "0.10.2", "4.0"]
    assert sorted(sorted(ordered), key=version_key) == ordered
    assert version_key("0.10") == version_key("0.10.0")


def test_a_card_tells_it() -> None:
    known = {name: remark for name, _, remark in card_lines(GPTQ)}
    assert known["vLLM 0.33.0"] == "from 0.2.6 on; on a processor with 4 bits alone"
    assert "on" not in known["gptqmodel 7.7.0"].split()


def test_a_plan_for_an_older_version_is_refused_with_what_that_one_loads() -> None:
    config: Any = qt.GPTQ(format="compressed-tensors")
    # Of sizes that old kernels take.
    model = random_model("llama", hidden_size=128, intermediate_size=256, num_attention_heads=4, num_key_value_heads=2)
    plan = qt.plan(model, config, machine="cpu-12gb", device="cpu", for_="vLLM 0.5.0")
    assert plan.for_reader == "vllm==0.5.0" and plan.reading is not None
    assert (plan.reading.name, plan.reading.loads) == ("vLLM 0.5.0", False)
    assert "0.5.1 is the first version that is known to load it: update it" in str(plan)
    assert plan.advice[0].change.startswith("GPTQ(")
    assert "compressed" not in plan.advice[0].change
    assert type(plan).from_dict(plan.to_dict()) == plan
    with pytest.raises(
        ConfigError, match=r"^for_='vllm==0\.5\.0': vLLM 0\.5\.0 would not load the result \(0\.5\.1 is"
    ):
        qt.quantize(model, config, device="cpu", output="never", for_="vllm==0.5.0")
