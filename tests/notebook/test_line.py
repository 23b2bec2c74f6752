"""Options on the line: made from the config's fields, checked by the config."""

from dataclasses import dataclass, fields
from typing import Any, ClassVar

import pytest

import qtoolkit as qt
from qtoolkit.errors import ConfigError
from qtoolkit.methods import MethodConfig, available_methods, config_class, get_method, option
from qtoolkit.notebook.lines import MagicLine, read_line
from qtoolkit.notebook.options import config_options, tables


def read(line: str) -> MagicLine:
    return read_line("quantize", line)


def config_of(line: str) -> Any:
    (config,) = read(line).configs
    return config


@pytest.mark.parametrize("method", available_methods())
def test_a_line_without_options_gives_the_methods_own_defaults(method: str) -> None:
    assert config_of(f"org/model --method {method}") == config_class(method)()


def test_the_default_method_is_nf4() -> None:
    assert config_of("org/model") == config_class("nf4")()


@pytest.mark.parametrize(
    ("line", "changed"),
    [
        pytest.param("m --no-double-quant", {"double_quant": False}, id="switch off"),
        pytest.param("--double-quant m", {"double_quant": True}, id="switch on, before the model"),
        pytest.param("m --exclude a,b", {"exclude": ("a", "b")}, id="list with a comma"),
        pytest.param("m --exclude a --exclude 'b, c'", {"exclude": ("a", "b", "c")}, id="list by repetition"),
        pytest.param("m --exclude ''", {"exclude": ()}, id="empty list"),
        pytest.param("m --method int8 --threshold 5", {"threshold": 5.0}, id="whole number for a number"),
        pytest.param("m --method=int8 --threshold=2.5", {"threshold": 2.5}, id="equals sign"),
        pytest.param("m --method zero-point", {}, id="hyphen in a method's name"),
    ],
)
def test_options_reach_the_config(line: str, changed: dict[str, Any]) -> None:
    config = config_of(line)
    assert read(line).words == ("m",)
    assert config == type(config)(**changed)


@pytest.mark.parametrize(
    ("options", "field", "value"),
    [
        pytest.param("--rounds 2", "rounds", 2, id="number among choices"),
        pytest.param("--ratio none", "ratio", None, id="none"),
        pytest.param("--ratio 1e-3", "ratio", 0.001, id="number or none"),
        pytest.param("--sizes 1,2", "sizes", (1, 2), id="list of numbers"),
        pytest.param("--model x", "model", "x", id="field named like the positional argument"),
    ],
)
def test_options_of_a_method_that_another_package_brings(
    brought_method: str, options: str, field: str, value: Any
) -> None:
    line = f"org/m --method {brought_method} {options}"
    assert getattr(config_of(line), field) == value
    assert read(line).words == ("org/m",)


def test_a_mixture_of_calibration_texts() -> None:
    config = config_of("m --method gptq --calibration 'wikitext2=0.5,my chat.jsonl=1.5' --calibration-column dialog")
    assert getattr(config, "calibration", None) == {"wikitext2": 0.5, "my chat.jsonl": 1.5}
    assert getattr(config, "calibration_column", None) == "dialog"


def test_options_of_the_job() -> None:
    line = "org/model@main --output out --into q --device cpu --revision v1 --overwrite"
    options = {"output": "out", "into": "q", "device": "cpu", "revision": "v1", "overwrite": True}
    assert read(line) == MagicLine(("org/model@main",), options, (config_class("nf4")(),))


@pytest.mark.parametrize(
    ("line", "model", "output"),
    [
        pytest.param("'my models/a' --output \"my out\"", "my models/a", "my out", id="blanks"),
        pytest.param("\"bob's\" --output='x y'", "bob's", "x y", id="quote in quotes, equals sign"),
        pytest.param("a#b --output c;d", "a#b", "c;d", id="characters of a shell"),
    ],
)
def test_paths_are_read_as_in_a_shell(line: str, model: str, output: str) -> None:
    given = read(line)
    assert (given.words, given.options["output"]) == ((model,), output)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        pytest.param("", "needs MODEL", id="no model"),
        pytest.param("m --output", "--output: expected one argument", id="no value"),
        pytest.param("a b", "got also 'b'", id="two models"),
        pytest.param("'a b", "no closing quotation", id="open quote"),
        pytest.param(
            "m --method nf5", "no method 'nf5': did you mean nf4\\? the methods are .*absmax.*nf4", id="unknown method"
        ),
        pytest.param("m --bitz 4", "'nf4' has no option --bitz: its options are .*--double-quant", id="unknown option"),
        pytest.param(
            "m --ouput a", "no option --ouput: did you mean --output\\? its", id="an option of the job, mistyped"
        ),
        pytest.param("m --method absmax --group-size 64", "granularity='group', or leave", id="without effect"),
        pytest.param("m -o out", "no option -o: did you mean --output\\?", id="a letter alone"),
        pytest.param("m -method nf4", "no option -method: did you mean --method.", id="one hyphen"),
        pytest.param("m --doub", "'nf4' has no option --doub", id="abbreviated option"),
        pytest.param("m --method nf4 --threshold 6", "'nf4' has no option --threshold", id="another method's option"),
        pytest.param("--threshold=6 m", "'nf4' has no option --threshold", id="another method's option first"),
        pytest.param("m --into 2q", "--into must be a variable's name, got '2q'", id="into no name"),
        pytest.param("m --into class", "--into must be a variable's name", id="into a keyword"),
        pytest.param("m --into q.a", "--into must be a variable's name", id="into an attribute"),
    ],
)
def test_a_bad_line_gets_one_clear_line(line: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        read(line)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "values"),
    [
        ("--method nf4 --compute-dtype int3", {"compute_dtype": "int3"}),
        ("--method int8 --threshold many", {"threshold": "many"}),
        ("--method absmax --bits 5", {"bits": 5}),
    ],
    ids=["choice", "type", "number among choices"],
)
def test_a_bad_value_gets_the_message_of_the_api(options: str, values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as of_api:
        config_class(options.split()[1])(**values)
    with pytest.raises(ConfigError) as of_magic:
        read(f"m {options}")
    assert str(of_magic.value) == str(of_api.value)


def test_a_field_named_like_an_option_of_the_job_says_where_it_can_be_set(monkeypatch: pytest.MonkeyPatch) -> None:
    @dataclass(frozen=True, kw_only=True)
    class Clash(MethodConfig):
        method: ClassVar[str] = "nf4"
        output: str = option("", help="clashes")

    monkeypatch.setattr(type(get_method("nf4")), "config_class", Clash)
    with pytest.raises(ConfigError, match=r"--output is an option of the job: .* body of a %%quantize cell"):
        read("m")


@pytest.mark.parametrize("method", available_methods())
def test_every_field_of_every_method_has_an_option(method: str) -> None:
    flags = [flag for option in config_options(config_class(method)) for flag in option.flags]
    for field in fields(config_class(method)):
        assert ("--" + field.name.replace("_", "-") in flags) == (field.name not in tables(config_class(method)))


def test_rules_are_sent_to_the_body() -> None:
    with pytest.raises(ConfigError, match=r'in the body of a %%quantize cell, write \[rules\."\*\.down_proj"\]'):
        read("org/m --method absmax --rules down_proj=8")
    with pytest.raises(ConfigError, match=r'options of these layers, such as tensor_type = "Q8_0"'):
        read("org/m --method gguf --rules down_proj=Q8_0")


def test_targets_are_options() -> None:
    assert config_of("org/m --method gptq --target-bits 3.5") == qt.GPTQ(target_bits=3.5)
    assert config_of("org/m --method gptq --target-size '2 GB'") == qt.GPTQ(target_size="2 GB")


def test_a_plan_may_be_for_another_machine() -> None:
    assert read_line("qplan", "org/m --machine t4 --context 1000").options == {"machine": "t4", "context": 1000}
    assert read("org/m --plan --machine t4").options["machine"] == "t4"


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("org/m --machine t4", "are for a plan: add --plan"),
        ("org/m --plan --context many", "number of tokens, got 'many'"),
    ],
    ids=["no plan", "no number"],
)
def test_options_of_plans_are_checked(line: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        read(line)
