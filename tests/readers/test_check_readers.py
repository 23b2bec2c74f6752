"""`make readers` tells where the sources of a program say otherwise than the table."""

from pathlib import Path

import pytest

from scripts.check_readers import CONDITIONS, Condition, moved
from scripts.eight_bit_schemes import capabilities, chosen_schemes, written_groups
from scripts.wheel_sources import literal, tiles

OURS = next(one for one in CONDITIONS if (one.reader, one.what) == ("vllm", "GPTQ: bits and sym"))
SOURCE = """
class AutoGPTQConfig(QuantizationConfig):
    TYPE_MAP = {{
        (4, True): scalar_types.uint4b8,
        ({bits}, True): scalar_types.other,
    }}
"""


def written(folder: Path, bits: int) -> Path:
    file = folder / "vllm/model_executor/layers/quantization/auto_gptq.py"
    file.parent.mkdir(parents=True)
    file.write_text(SOURCE.format(bits=bits))
    return folder


def test_nothing_moved_where_sources_say_what_the_table_says(tmp_path: Path) -> None:
    assert moved({"vllm": written(tmp_path, 8)}, [OURS]) == []


def test_what_moved_is_told(tmp_path: Path) -> None:
    (line,) = moved({"vllm": written(tmp_path, 3)}, [OURS])
    assert line.startswith("vllm, GPTQ: bits and sym: the table says {") and "(3, True)" in line


def test_a_source_that_is_gone_is_told(tmp_path: Path) -> None:
    (line,) = moved({"vllm": tmp_path}, [OURS])
    assert "cannot be read there any more" in line
    file = tmp_path / "empty.py"
    file.write_text("")
    condition = Condition("vllm", "nothing", [], lambda root: literal(root, "empty.py", "TYPE_MAP"))
    assert "TYPE_MAP is not assigned" in moved({"vllm": tmp_path}, [condition])[0]


@pytest.mark.parametrize(
    ("code", "value"),
    [
        ("A = [1, 2]", [1, 2]),
        ("A: dict[int, str] = {2: x.y, **other}", [2]),
        ("A = Literal['gptq', 'awq']", ("gptq", "awq")),
        ("class B:\n    A = [-1, 32]", [-1, 32]),
    ],
)
def test_literals_are_read_without_running_anything(tmp_path: Path, code: str, value: object) -> None:
    (tmp_path / "a.py").write_text(code)
    assert literal(tmp_path, "a.py", "A") == value


CONFIGS = """
thread_config_t small_batch_thread_configs[] = {{
    // thread_k, thread_n, num_threads
    {{128, 128, 256}}, {{64, 128, 128}}, {{128, {least}, 128}}}};
thread_config_t large_batch_thread_configs[] = {{
    {{64, 256, 256}}, {{64, 128, 128}}, {{128, {least}, 128}}}};
"""


@pytest.mark.parametrize(("least", "moves"), [(64, False), (32, True)])
def test_sizes_of_a_kernel_are_read_in_its_source(tmp_path: Path, least: int, moves: bool) -> None:
    file = tmp_path / "sglang/kernels/jit/csrc/gemm/marlin/gptq_marlin.cuh"
    file.parent.mkdir(parents=True)
    file.write_text(CONFIGS.format(least=least))
    assert tiles(tmp_path) == {(128, 64), (least, 128)}
    ours = next(one for one in CONDITIONS if one.what == "Marlin: sizes of matrices")
    assert bool(moved({"sglang": tmp_path}, [ours])) is moves


SERVER = """
class CompressedTensorsConfig(QuantizationConfig):
    @staticmethod
    def _is_float(weight_quant: QuantizationArgs) -> bool:
        return weight_quant.type == QuantizationType.FLOAT and weight_quant.strategy in [{strategies}]

    def _get_scheme_from_parts(self, weight_quant: QuantizationArgs, input_quant, format=None) -> "Scheme":
        if _is_npu or current_platform.is_xpu():
            return CompressedTensorsOdd()
        if self._is_float(weight_quant) and input_quant.dynamic:
            supported = self._check_scheme_supported(CompressedTensorsW8A8Fp8.get_min_capability(), error=False)
            return CompressedTensorsW8A8Fp8(weight_quant=weight_quant) if supported else CompressedTensorsW8A16Fp8()
        if self.quant_format == CompressionFormat.int_quantized.value:
            return CompressedTensorsW8A8Int8()
        raise NotImplementedError("No compressed-tensors compatible scheme was found.")
"""
CHANNEL, BLOCK = "QuantizationStrategy.CHANNEL", "QuantizationStrategy.BLOCK"


def test_a_server_is_asked_for_its_schemes_of_what_qtoolkit_writes() -> None:
    pytest.importorskip("compressed_tensors")
    groups = written_groups()
    chosen = chosen_schemes(SERVER.format(strategies=f"{CHANNEL}, {BLOCK}"), groups)
    assert chosen == {
        "float8": "CompressedTensorsW8A8Fp8",
        "float8 in blocks": "CompressedTensorsW8A8Fp8",
        "int8": "CompressedTensorsW8A8Int8",
    }
    with pytest.raises(NotImplementedError):
        chosen_schemes(SERVER.format(strategies=CHANNEL), groups)


def test_the_least_capability_is_read(tmp_path: Path) -> None:
    source = "class A:\n    @classmethod\n    def get_min_capability(cls) -> int:\n        # some\n        return {}\n"
    folder = tmp_path / "x" / "compressed_tensors" / "schemes"
    folder.mkdir(parents=True)
    numbers = {"w8a8_fp8": 89, "w8a16_fp8": 75, "w8a8_int8": 80}
    for name, number in numbers.items():
        (folder / f"compressed_tensors_{name}.py").write_text(source.format(number))
    assert capabilities(tmp_path, "x") == numbers
    (folder / "compressed_tensors_w8a8_fp8.py").write_text("")
    with pytest.raises(LookupError, match="w8a8_fp8 names no capability"):
        capabilities(tmp_path, "x")
