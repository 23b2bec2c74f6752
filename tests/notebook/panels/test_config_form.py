"""Fields made from a config: every option has one, each says what is wrong with it, and none is silently changed."""

from dataclasses import fields
from html import escape
from typing import Any

import pytest

import qtoolkit as qt
from qtoolkit.methods import available_methods, config_class, get_method
from qtoolkit.notebook.options import tables
from qtoolkit.notebook.panels.config_form import ConfigForm
from qtoolkit.notebook.panels.option_labels import _LABELS, label_of


@pytest.fixture
def form() -> ConfigForm:
    return ConfigForm(lambda: None)


@pytest.mark.parametrize("method", available_methods())
def test_every_option_has_a_field_and_as_they_open_they_are_the_default(form: ConfigForm, method: str) -> None:
    form.method.value = method
    known = config_class(method)
    assert set(form.options) == {field.name for field in fields(known)} - set(tables(known))
    assert form.config == known()
    assert escape(get_method(method).summary) in form.method._beside.value
    # Read again from what the fields hold.
    assert form._read() == known()
    for field in fields(known):
        if field.name in form.options:
            assert form.options[field.name].control.description == label_of(field.name)
            hint = form.options[field.name]._beside.value.replace("&#x27;", "'")
            assert field.metadata["help"] in hint and f"[{field.name}]" in hint


def test_each_option_of_ours_has_a_label_in_plain_words() -> None:
    methods = [config_class(name) for name in available_methods()]
    assert set(_LABELS) == {one.name for known in methods for one in fields(known)} - {
        name for known in methods for name in tables(known)
    }
    assert not any("_" in label for label in _LABELS.values())


CHANGES: dict[str, tuple[str, dict[str, Any], Any]] = {
    "a switch": ("nf4", {"double_quant": False}, qt.NF4(double_quant=False)),
    "a choice": ("gptq", {"bits": 3}, qt.GPTQ(bits=3)),
    "a number": ("gptq", {"group_size": " 64 "}, qt.GPTQ(group_size=64)),
    "a fraction": ("gptq", {"damp_percent": "0.1"}, qt.GPTQ(damp_percent=0.1)),
    "a mixture": ("gptq", {"calibration": "c4=1, a.txt=3"}, qt.GPTQ(calibration={"c4": 1, "a.txt": 3})),
    "a column": ("gptq", {"calibration_column": "dialog"}, qt.GPTQ(calibration_column="dialog")),
    "names": ("nf4", {"exclude": "lm_head, *.o_proj"}, qt.NF4(exclude=("lm_head", "*.o_proj"))),
    "no names": ("nf4", {"exclude": ""}, qt.NF4(exclude=())),
    "empty is the default": ("gptq", {"num_samples": ""}, qt.GPTQ()),
    "a text": ("gptq", {"calibration": "my text.txt"}, qt.GPTQ(calibration="my text.txt")),
}


@pytest.mark.parametrize(("method", "given", "config"), CHANGES.values(), ids=CHANGES)
def test_fields_become_a_config(form: ConfigForm, method: str, given: dict[str, Any], config: Any) -> None:
    form.method.value = method
    for name, value in given.items():
        form.options[name].value = value
    assert form.config == config


def test_each_field_that_is_wrong_says_so_and_takes_it_back(form: ConfigForm) -> None:
    form.method.value = "gptq"
    form.options["group_size"].value = "many"
    form.options["num_samples"].value = "0"
    assert form.config is None
    assert {name: field.problem for name, field in form.options.items() if field.problem} == {
        "group_size": "GPTQ: “Group size” must be a whole number, got 'many'; usual is 128",
        "num_samples": "GPTQ: Samples must be at least 1, got 0; usual is 128",
    }
    group_size = form.options["group_size"]
    assert "qtk-wrong" in group_size.control._dom_classes and "[group_size]" in group_size._beside.value
    form.options["group_size"].value, form.options["num_samples"].value = "32", "8"
    assert "qtk-wrong" not in group_size.control._dom_classes and "many" not in group_size._beside.value
    assert form.config == qt.GPTQ(group_size=32, num_samples=8)
    assert not any(field.problem for field in form.options.values())


def test_a_size_that_is_none_is_told_beside_its_own_field(form: ConfigForm) -> None:
    form.method.value = "gguf"
    form.options["target_size"].value = "much"
    assert {name: field.problem for name, field in form.options.items() if field.problem} == {
        "target_size": "GGUF: “Size at most”: 'much' is no size: write it as 8 GB, 500 MB or 1.5 GiB"
    }


def test_options_that_do_not_go_together_are_told_beside_one_of_them(form: ConfigForm) -> None:
    form.method.value = "gptq"
    form.options["order"].value, form.options["desc_act"].value = "natural", True
    assert form.config is None
    assert "leave “Column order” activation" in form.options["desc_act"].problem


def test_a_listener_hears_each_change(form: ConfigForm) -> None:
    heard: list[Any] = []
    form = ConfigForm(lambda: heard.append(form.config))
    form.method.value = "int8"
    form.options["threshold"].value = "5"
    form.options["threshold"].value = "x"
    assert heard == [qt.Int8(), qt.Int8(threshold=5.0), None]


def test_another_packages_method_has_fields_too(brought_method: str) -> None:
    form = ConfigForm(lambda: None)
    form.method.value = brought_method
    assert set(form.options) == {"exclude", "include", "rounds", "ratio", "sizes", "model"}
    form.options["sizes"].value, form.options["ratio"].value = "1, 2", "0.5"
    assert (form.config.sizes, form.config.ratio) == ((1, 2), 0.5)  # type: ignore[union-attr]
    assert form.options["rounds"].control.description == "Rounds"


def shown(form: ConfigForm) -> set[str]:
    """The options that are seen without opening what is folded."""
    return {name for name, field in form.options.items() if field.box in form.box.children}


def test_of_a_method_of_many_options_few_are_seen_at_once(form: ConfigForm) -> None:
    form.method.value = "gptq"
    assert shown(form) == {"format", "bits", "group_size", "calibration", "num_samples", "seq_len"}
    assert form.advanced.button.control.description == f"▸ Advanced: {len(form.options) - 6} more options"
    assert not form.advanced.is_open
    form.advanced.button.press()
    assert form.advanced.is_open and form.advanced.button.control.description.startswith("▾ ")
    form.advanced.button.press()
    assert not form.advanced.is_open
    form.method.value = "nf4"
    assert shown(form) == {"double_quant", "compute_dtype"}


def test_what_is_folded_and_wrong_is_opened(form: ConfigForm) -> None:
    form.method.value = "gptq"
    form.options["group_size"].value = "many"
    assert not form.advanced.is_open
    form.options["damp_percent"].value = "much"
    assert form.advanced.is_open


def test_a_config_is_set_and_read_again_whatever_was_there(form: ConfigForm) -> None:
    for config in (
        qt.GPTQ(bits=3, desc_act=True, exclude=("a", "b"), num_samples=5, target_bits=None),
        qt.NF4(double_quant=False),
        qt.GPTQ(),
    ):
        form.apply(config)
        assert form.config == config
