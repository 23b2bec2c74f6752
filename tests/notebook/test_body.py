"""The body of `%%quantize`: any text gives a config or one clear error."""

from dataclasses import fields
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from qtoolkit.errors import ConfigError
from qtoolkit.methods import MethodConfig, available_methods, config_class
from qtoolkit.notebook.body import read_body
from qtoolkit.notebook.lines import read_line


@pytest.mark.parametrize(
    ("body", "method", "values"),
    [
        pytest.param("# nothing but a remark", "nf4", {}, id="defaults"),
        pytest.param('method = "NF4"\ndouble_quant = false', "nf4", {"double_quant": False}, id="switch"),
        pytest.param('method = "int8"\nthreshold = 5', "int8", {"threshold": 5.0}, id="number"),
        pytest.param(
            'method = "gptq"\ncalibration = {wikitext2 = 0.5, "chat.jsonl" = 1}\ncalibration_column = "dialog"',
            "gptq",
            {"calibration": {"wikitext2": 0.5, "chat.jsonl": 1.0}, "calibration_column": "dialog"},
            id="mixture",
        ),
        pytest.param('exclude = ["a", "*.b"]', "nf4", {"exclude": ("a", "*.b")}, id="list"),
    ],
)
def test_a_body_gives_the_config(body: str, method: str, values: dict[str, Any]) -> None:
    assert read_body(body) == config_class(method)(**values)


def test_nothing_is_expanded_in_a_body() -> None:
    assert read_body('exclude = ["{x}", "$y"]').exclude == ("{x}", "$y")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        pytest.param("bits: 4", "cannot be read as TOML: .*write one option a line, such as method", id="not TOML"),
        pytest.param("bitz = 4", "NF4 has no option 'bitz': its options are .*double_quant", id="unknown key"),
        pytest.param("[nf4]\nbits = 4", "NF4 has no option 'nf4'", id="table"),
        pytest.param('method = "nf5"', r"no method 'nf5': did you mean nf4\? the methods are", id="unknown method"),
        pytest.param(
            'method = "absmax"\ngroup_size = 64', "without effect beside granularity 'tensor'", id="without effect"
        ),
        pytest.param("method = 4", "method must be a method's name in quotes, got 4", id="method no text"),
        pytest.param('method = "_config"', "no method '_config'", id="private file"),
        pytest.param('exclude = "a"', "exclude must be a list of names, got 'a'", id="text for a list"),
        pytest.param("a = " + "9" * 5000, "cannot be read as TOML", id="number too long for Python"),
        pytest.param("a = " + "[" * 100_000, "cannot be read as TOML", id="nested too deep"),
    ],
)
def test_a_bad_body_gets_one_clear_line(body: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        read_body(body)
    assert "\n" not in str(caught.value)


def test_the_line_of_a_cell_takes_options_of_the_job_only() -> None:
    given = read_line("quantize", "'my model' --output out", 'method = "int8"')
    assert (given.words, given.options, given.configs[0].method) == (("my model",), {"output": "out"}, "int8")
    with pytest.raises(
        ConfigError, match=r"has no option --threshold: .*; the method and its options go into the cell"
    ):
        read_line("quantize", "m --threshold 6", 'method = "int8"')
    with pytest.raises(ConfigError, match="has no option --method"):
        read_line("quantize", "m --method int8", "# defaults")


_VALUES = st.one_of(
    st.booleans().map(lambda value: str(value).lower()),
    st.integers().map(str),
    st.floats().map(lambda value: repr(value).replace("e", "E")),
    st.sampled_from(["1979-05-27", "07:32:00", "{a = 1}", "[]", "[[]]", "[1, 'a']", "10" * 400]),
    st.text(max_size=8).map(lambda text: f"'{text}'"),
    st.sampled_from([*available_methods(), "fp16", "auto"]).map(lambda name: f'"{name}"'),
)
_KEYS = st.sampled_from(
    ["method", *{field.name for name in available_methods() for field in fields(config_class(name))}]
)
_LINES = st.lists(st.tuples(_KEYS, _VALUES).map(" = ".join), max_size=4).map("\n".join)


@given(body=st.one_of(st.text(), _LINES))
@example(body='method = "int8"\nthreshold = 1' + "0" * 400)
@example(body="method = 0x1" + "0" * 5000)
@example(body="exclude = [0x1" + "0" * 5000 + "]")
@example(body="a.b = 1\na.c = 2")
@example(body="\ud800")
@example(body="a = '\0'")
def test_any_text_gives_a_config_or_a_config_error(body: str) -> None:
    try:
        config = read_body(body)
    except ConfigError:
        return
    assert isinstance(config, MethodConfig)
