"""Which program loads what: the table's rows, as the sources of these programs state them."""

from dataclasses import replace

import pytest

import qtoolkit as qt
from qtoolkit.errors import ConfigError
from qtoolkit.readers import (
    READER_NAMES,
    Stored,
    card_lines,
    lost_readers,
    readers_of,
    reading_of,
    served_by,
)
from qtoolkit.readers.programs import PROGRAMS
from qtoolkit.readers.table import ENTRIES
from qtoolkit.requests.for_reader import ForReader

GPTQ = Stored(format="gptq", layout="gptq", bits=(4,), group_sizes=(128,))
PACKED = Stored(format="compressed-tensors", layout="pack-quantized", bits=(4,), group_sizes=(64,))
NF4 = Stored(format="bitsandbytes", bits=(4,))
FLOAT8 = Stored(format="compressed-tensors", layout="float-quantized", bits=(8,), input_type="float8")
INT8 = Stored(format="compressed-tensors", layout="int-quantized", bits=(8,), input_type="int8")
MLX = Stored(format="mlx", bits=(4,), group_sizes=(64,))
AWQ = Stored(format="awq", layout="gemm", bits=(4,), group_sizes=(128,), sym=False)
AUTO_ROUND = Stored(format="auto-round", bits=(4,), group_sizes=(128,))
AS_AWQ = replace(AUTO_ROUND, layout="auto_round:auto_awq")
FLOAT4 = Stored(format="compressed-tensors", input_type="float4", bits=(4,), group_sizes=(16,))

# vLLM 0.33.0 auto_gptq.py and SGLang 0.5.23 gptq.py: TYPE_MAP has (4, True) and (8, True); groups: marlin_utils.py;
# auto-gptq 0.7.1 _base.py: 2, 3, 4, 8; compressed_tensors_wNa16.py: 2 to 8 in vLLM, 4 and 8 in SGLang.
LOADS = [
    (GPTQ, "vllm", True),
    (replace(GPTQ, bits=(8,), group_sizes=(-1,)), "vllm", True),
    (replace(GPTQ, bits=(3,)), "vllm", False),
    (replace(GPTQ, bits=(3,)), "sglang", False),
    (replace(GPTQ, bits=(3,)), "auto-gptq", True),
    # gptqmodel 5.6.12 takes zero points of 3 bits from the first layout to the second wrongly: run in `make interop`.
    (replace(GPTQ, bits=(3,)), "transformers4", False),
    (replace(GPTQ, bits=(3,), layout="gptq_v2"), "transformers4", True),
    (replace(GPTQ, bits=(5,), layout="gptq_v2"), "transformers4", False),
    (replace(GPTQ, bits=(4, 8)), "vllm", True),
    (replace(GPTQ, bits=(4, 8)), "auto-gptq", False),
    (replace(GPTQ, bits=(4, 8)), "transformers", False),
    (replace(GPTQ, bits=(4, 8)), "gptqmodel", True),
    (replace(GPTQ, sym=False), "vllm", False),
    (replace(GPTQ, sym=False), "transformers", True),
    (replace(GPTQ, desc_act=True), "vllm", False),
    (replace(GPTQ, group_sizes=(256,)), "vllm", False),
    (replace(GPTQ, group_sizes=(256,)), "gptqmodel", True),
    *(
        (replace(GPTQ, group_sizes=(96,)), reader, False)
        for reader in ("gptqmodel", "transformers4", "transformers", "peft")
    ),
    (replace(GPTQ, group_sizes=(96,)), "auto-gptq", True),
    (replace(GPTQ, layout="gptq_v2"), "auto-gptq", False),
    (replace(GPTQ, layout="gptq_v2"), "vllm", True),
    (replace(GPTQ, left=("h.0.o_proj",)), "auto-gptq", False),
    (replace(GPTQ, left=("h.0.o_proj",)), "vllm", True),
    # gptqmodel 7.7.0 takes zero points of the first layout from itself alone: run in `make interop`.
    (replace(GPTQ, sym=False), "gptqmodel", False),
    (replace(GPTQ, sym=False, layout="gptq_v2"), "gptqmodel", True),
    # transformers leaves the experts of gpt-oss as they were allocated, with a warning alone: run in `make interop`.
    *((replace(stored, split_experts="GptOssForCausalLM"), "transformers", False) for stored in (PACKED, FLOAT8, INT8)),
    *((replace(stored, split_experts="GptOssForCausalLM"), "transformers4", False) for stored in (PACKED, GPTQ, NF4)),
    (GPTQ, "mlx-lm", False),
    (GPTQ, "llama.cpp", False),
    (PACKED, "vllm", True),
    (replace(PACKED, bits=(3,)), "vllm", True),
    (replace(PACKED, bits=(3,)), "sglang", False),
    (replace(PACKED, sym=False, expands=True), "transformers", True),
    (replace(PACKED, sym=False), "transformers", False),
    (replace(PACKED, sym=False, expands=True), "transformers4", False),
    (replace(PACKED, sym=False), "vllm", True),
    (replace(PACKED, embeddings=8), "vllm", False),
    (replace(PACKED, embeddings=8), "transformers", False),
    (replace(PACKED, layout="float-quantized"), "qtoolkit", False),
    (replace(PACKED, mixed_units=("h.0.qkv_proj",)), "vllm", False),
    (replace(PACKED, mixed_units=("h.0.qkv_proj",)), "transformers", True),
    *((stored, reader, True) for stored in (FLOAT8, INT8) for reader in ("vllm", "sglang", "transformers4")),
    *((stored, reader, False) for stored in (FLOAT8, INT8) for reader in ("mlx-lm", "llama.cpp", "gptqmodel")),
    (replace(FLOAT8, mixed_units=("h.0.qkv_proj",)), "vllm", False),
    (replace(INT8, mixed_units=("h.0.qkv_proj",)), "sglang", False),
    (FLOAT8, "qtoolkit", True),
    (NF4, "vllm", False),
    (NF4, "sglang", True),
    (MLX, "mlx-lm", True),
    (MLX, "vllm", False),
    (replace(MLX, group_sizes=(256,)), "mlx-lm", False),
    (replace(MLX, experts="MixtralForCausalLM"), "mlx-lm", True),
    (replace(MLX, experts="Qwen3MoeForCausalLM"), "mlx-lm", False),
    (replace(PACKED, plain_experts=True), "transformers", False),
    (replace(PACKED, plain_experts=True), "transformers4", True),
    # SGLang 0.5.23 compressed_tensors.py:864-899 and gptq.py:446; vLLM 0.33.0 compressed_tensors_moe.py:30-58.
    *((replace(stored, hidden_experts=True), "sglang", False) for stored in (PACKED, FLOAT8, INT8)),
    *((replace(stored, hidden_experts=True), "vllm", True) for stored in (PACKED, FLOAT8, INT8)),
    *((replace(GPTQ, **{field: True}), "sglang", False) for field in ("plain_experts", "own_experts")),
    *((replace(GPTQ, **{field: True}), "vllm", True) for field in ("plain_experts", "own_experts")),
    *((replace(INT8, experts="MixtralForCausalLM"), reader, reader == "vllm") for reader in ("vllm", "sglang")),
    (replace(FLOAT8, experts="MixtralForCausalLM"), "sglang", True),
    (replace(PACKED, sym=False, embeddings=8), "transformers", False),
    # Read in the sources of SGLang 0.5.23, vLLM 0.33.0 and transformers 4.57.6.
    (replace(PACKED, bits=(8,), sym=False, expands=True), "sglang", False),
    (replace(PACKED, bits=(8,)), "sglang", True),
    (replace(PACKED, sym=False, expands=True), "sglang", True),
    (AWQ, "vllm", True),
    (replace(AWQ, bits=(8,)), "vllm", False),
    (AWQ, "mlx-lm", True),
    (replace(AWQ, group_sizes=(256,)), "mlx-lm", False),
    (AUTO_ROUND, "transformers4", True),
    (Stored(format="fp8", bits=(8,)), "transformers4", True),
    *((AUTO_ROUND, reader, True) for reader in ("vllm", "sglang")),
    *((replace(AUTO_ROUND, sym=False, bits=(bits,)), "vllm", False) for bits in (3, 4, 8)),
    (replace(AUTO_ROUND, bits=(3,)), "sglang", False),
    (replace(AUTO_ROUND, sym=False), "sglang", False),
    (replace(AUTO_ROUND, group_sizes=(256,)), "vllm", False),
    (replace(AUTO_ROUND, bits=(5,)), "sglang", False),
    (replace(AUTO_ROUND, desc_act=True), "sglang", False),
    # The same bits, by how they are packed.
    *((replace(AS_AWQ, sym=False), reader, True) for reader in ("vllm", "sglang", "qtoolkit")),
    *((replace(AS_AWQ, bits=(8,)), reader, False) for reader in ("vllm", "sglang")),
    *((replace(AUTO_ROUND, layout="auto_round"), reader, False) for reader in ("vllm", "sglang")),
    *((Stored(format="mxfp4"), reader, True) for reader in ("vllm", "sglang", "transformers", "mlx-lm")),
    *((Stored(format="mxfp4"), reader, False) for reader in ("gptqmodel", "llama.cpp")),
    (Stored(format="modelopt", layout="FP8"), "vllm 0.6.1", True),
    (Stored(format="modelopt", layout="NVFP4"), "vllm 0.7.3", False),
    (Stored(format="modelopt", layout="NVFP4"), "mlx-lm", True),
    (Stored(format="modelopt", layout="FP8"), "mlx-lm", False),
    (Stored(format="modelopt", layout="FP8_PB_WO"), "sglang", False),
    *((Stored(format="modelopt", layout="FP8"), reader, False) for reader in ("transformers", "qtoolkit")),
    *((replace(FLOAT4, layout=f"{kind}-pack-quantized"), "vllm", True) for kind in ("nvfp4", "mxfp4")),
    *((replace(FLOAT4, layout=f"{kind}-pack-quantized"), "sglang", kind == "nvfp4") for kind in ("nvfp4", "mxfp4")),
    (FLOAT4, "mlx-lm", False),
    (Stored(format="native"), "qtoolkit", True),
    (Stored(format="native"), "transformers", False),
    (Stored(format="gguf"), "ollama", True),
    (Stored(format="gguf"), "vllm", False),
]


@pytest.mark.parametrize(("stored", "reader", "loads"), LOADS)
def test_a_program_loads_it_or_not(stored: Stored, reader: str, loads: bool) -> None:
    reading = reading_of(reader, readers_of(stored))
    assert reading.loads == loads
    assert bool(reading.why) == (not loads)
    assert reading.source


def test_the_reason_names_what_was_got_and_every_broken_condition() -> None:
    reading = reading_of("vllm", readers_of(replace(GPTQ, bits=(3, 4), sym=False, mixed_units=("h.0.qkv_proj",))))
    assert reading.why == (
        "GPTQ of 3 bits: it takes 4 and 8, asymmetric GPTQ, layers of qkv_proj, which it joins, are not quantized alike"
    )
    assert "format='compressed-tensors' holds them" in reading.remedy


def test_an_unknown_format_has_no_readings_and_an_unknown_program_is_refused() -> None:
    assert readers_of(Stored(format="toy")) == () == card_lines(Stored(format="toy"))
    with pytest.raises(ConfigError, match="not known: leave for_ out"):
        reading_of("vllm", readers_of(Stored(format="toy")))
    with pytest.raises(
        ConfigError, match=r"for_ must be one of transformers, .*, qtoolkit, got 'vlm': did you mean vllm\?"
    ):
        reading_of("vlm", readers_of(GPTQ))


def test_every_format_of_ours_and_every_program_has_rows() -> None:
    assert {entry.format for entry in ENTRIES if entry.reader == "qtoolkit"} >= set(qt.available_formats())
    assert {entry.reader for entry in ENTRIES} <= set(READER_NAMES)
    assert len({(entry.reader, entry.format, entry.input_type) for entry in ENTRIES}) == len(ENTRIES)
    assert all(entry.source for entry in ENTRIES) and all(program.source for program in PROGRAMS)
    fields = {limit.field for entry in ENTRIES for limit in entry.limits}
    assert all(hasattr(GPTQ, field) for field in fields)


def test_names_in_words() -> None:
    """Both ages of transformers are one; where one alone loads it, its number tells which."""
    assert served_by(GPTQ) == "transformers, vLLM, SGLang, gptqmodel, auto-gptq"
    assert served_by(replace(PACKED, sym=False, expands=True)) == "transformers 5, vLLM, SGLang"
    assert served_by(Stored(format="native")) == ""


def test_what_costs_readers_is_told() -> None:
    assert lost_readers(GPTQ) == lost_readers(NF4) == ""
    assert lost_readers(replace(GPTQ, bits=(3,))) == (
        "transformers 4 (GPTQ of 3 bits: it reads 2, 4 and 8 right); vLLM, SGLang (GPTQ of 3 bits: it takes 4 and 8)"
    )
    assert lost_readers(replace(PACKED, embeddings=8)) == (
        "transformers, SGLang (quantized embeddings); "
        "vLLM (quantized embeddings, which most of its classes do not find)"
    )


def test_a_card_names_who_loads_it_and_who_does_not() -> None:
    lines = {name: (loads, known) for name, loads, known in card_lines(NF4)}
    assert lines["vLLM 0.33.0"][0] == "no" and "removed bitsandbytes" in lines["vLLM 0.33.0"][1]
    assert lines["transformers 5.24.0"] == ("yes", "from 5.0.0 on; needs bitsandbytes")
    assert "auto-gptq 0.7.1" not in lines and not any(name.startswith("qtoolkit") for name in lines)


@pytest.mark.parametrize(
    ("spelled", "name"),
    [("vLLM", "vllm"), ("LM Studio", "lm-studio"), ("Llama CPP", "llama.cpp"), ("Transformers 4", "transformers4")],
)
def test_a_program_is_known_however_it_is_spelled(spelled: str, name: str) -> None:
    assert reading_of(spelled, readers_of(PACKED)).reader == name
    assert ForReader(for_=spelled).for_ == name


def test_falcons_own_layers_are_found_by_transformers_4_alone() -> None:
    """transformers 5 leaves a class of their own as it is, and then finds packed codes in its place (make interop)."""
    readings = readers_of(Stored(format="bitsandbytes", bits=(4,), own_linear="FalconForCausalLM"))
    assert reading_of("transformers4", readings).loads and not reading_of("transformers", readings).loads
