"""A config refuses what it cannot have, in one line that names what it can."""

from typing import Any

import pytest

import qtoolkit as qt
from qtoolkit.errors import ConfigError
from qtoolkit.methods import MethodConfig, resolve_config
from qtoolkit.methods.config import as_call

BAD: dict[str, tuple[type[MethodConfig], dict[str, Any], str]] = {
    "bits-not-there": (qt.AbsMax, {"bits": 5}, "bits must be one of 8, 4, got 5"),
    "granularity": (
        qt.ZeroPoint,
        {"granularity": "row"},
        "granularity must be one of 'tensor', 'channel', 'group', got 'row'",
    ),
    "group-size-odd": (qt.AbsMax, {"group_size": 33}, "group_size must be an even number from 2, got 33"),
    "text-for-bool": (qt.NF4, {"double_quant": "yes"}, "double_quant must be true or false, got 'yes'"),
    "number-for-bool": (qt.NF4, {"double_quant": 1}, "double_quant must be true or false, got 1"),
    "bool-for-number": (qt.AbsMax, {"bits": True}, "bits must be"),
    "dtype": (
        qt.FP4,
        {"compute_dtype": "int8"},
        "compute_dtype must be one of 'auto', 'bfloat16', 'float16', 'float32'",
    ),
    "threshold-negative": (qt.Int8, {"threshold": -1.0}, "threshold must be 0 or more, got -1.0"),
    "threshold-nan": (qt.Int8, {"threshold": float("nan")}, "threshold must be 0 or more, got nan"),
    "threshold-too-large": (qt.Int8, {"threshold": 10**400}, "threshold must be a number, got 1000"),
    "exclude-text": (qt.Int8, {"exclude": "lm_head"}, "exclude must be a list of names, got 'lm_head'"),
}


@pytest.mark.parametrize(("config_class", "values", "message"), BAD.values(), ids=BAD)
def test_a_bad_value_is_refused(config_class: type[MethodConfig], values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config_class(**values)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_option_names_those_there_are() -> None:
    with pytest.raises(
        ConfigError, match="NF4 has no option 'bits': its options are exclude, include, double_quant, compute_dtype"
    ):
        qt.NF4.from_dict({"bits": 4})


def test_a_whole_number_does_for_a_threshold() -> None:
    assert qt.Int8(threshold=6) == qt.Int8()


@pytest.mark.parametrize("config", [qt.GPTQ(), qt.GPTQ(**qt.GPTQ.absent()), qt.AbsMax(), qt.AbsMax(full_range=True)])
def test_a_file_holds_what_differs_from_a_file_of_before(config: MethodConfig) -> None:
    values = config.to_file()
    assert type(config).from_file(values) == config
    on = {name: value for name, value in config.to_dict().items() if value != config.absent().get(name, value)}
    assert values.keys() & config.absent().keys() == on.keys()


def test_a_call_shows_what_is_not_the_default() -> None:
    assert as_call(qt.AbsMax(full_range=True)) == "AbsMax(full_range=True)"
    assert as_call(qt.GPTQ(full_range=False)) == "GPTQ(full_range=False)"


@pytest.mark.parametrize(
    ("pattern", "excluded"),
    [
        ("lm_head", ["lm_head"]),
        ("down_proj", ["model.layers.0.mlp.down_proj", "model.layers.1.mlp.down_proj"]),
        ("model.layers.1.*", ["model.layers.1.mlp.down_proj", "model.layers.1.self_attn.q_proj"]),
        ("*.q_proj", ["model.layers.1.self_attn.q_proj"]),
        ("proj", []),
    ],
)
def test_exclude_matches_names_and_their_ends(pattern: str, excluded: list[str]) -> None:
    names = [
        "lm_head",
        "model.layers.0.mlp.down_proj",
        "model.layers.1.mlp.down_proj",
        "model.layers.1.self_attn.q_proj",
    ]
    assert [name for name in names if qt.NF4(exclude=(pattern,)).excludes(name)] == excluded


@pytest.mark.parametrize("given", [qt.Int8(), qt.Int8, "int8", "INT8"], ids=["config", "class", "name", "upper-case"])
def test_a_config_is_given_in_several_ways(given: Any) -> None:
    assert resolve_config(given) == qt.Int8()


@pytest.mark.parametrize("given", [None, 4, {"bits": 4}, object()], ids=["none", "number", "dict", "object"])
def test_anything_else_is_refused(given: Any) -> None:
    with pytest.raises(ConfigError, match=r"config must be a config such as qt\.NF4"):
        resolve_config(given)
