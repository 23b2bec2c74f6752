"""`make readers` tells where the sources of a program say otherwise than the table."""

from pathlib import Path

import pytest

from scripts.check_readers import CONDITIONS, Condition, literal, moved

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
