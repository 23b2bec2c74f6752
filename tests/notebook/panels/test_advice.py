"""Advice of a plan that does not fit is a button: pressed, it sets method, options and device, and the plan is new."""

from collections.abc import Callable

import pytest

import qtoolkit as qt
from qtoolkit.methods import as_call
from qtoolkit.notebook.panels import Panel
from qtoolkit.notebook.panels.advice_buttons import read_change

Open = Callable[..., Panel]


@pytest.mark.parametrize(
    ("change", "read"),
    [
        ("GPTQ(num_samples=32, seq_len=512)", (qt.GPTQ(num_samples=32, seq_len=512), "")),
        (as_call(qt.NF4(exclude=("a", "b"))), (qt.NF4(exclude=("a", "b")), "")),
        ("NF4() with device='cpu'", (qt.NF4(), "cpu")),
        ("Theirs(ratio=2)", None),
        ("buy more memory", None),
        ("NF4(nothing=1)", None),
    ],
)
def test_a_change_is_read_as_it_is_written(change: str, read: object) -> None:
    assert read_change(change) == read


def test_a_button_for_each_sets_the_fields(open_panel: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    panel = open_panel()
    form, advice = panel.plan.methods.form, panel.plan.advice
    form.method.value = "gptq"
    assert [button.box.layout.display for button in advice.buttons] == ["none"] * 4
    advice.show(plan_with("GPTQ(num_samples=32, seq_len=512)", "NF4(double_quant=False) with device='cpu'"))
    assert [button.box.layout.display for button in advice.buttons] == [None, None, "none", "none"]
    assert advice.buttons[0].control.description == "Use GPTQ(num_samples=32, seq_len=512)"
    assert "fits: memory 1.0 kB" in advice.buttons[0]._beside.value
    advice.buttons[0].press()
    assert panel.choice.config == qt.GPTQ(num_samples=32, seq_len=512) and panel.choice.device == "auto"
    # What is chosen now has no plan yet, and so no advice.
    assert advice.buttons[0].box.layout.display == "none"
    advice.show(plan_with("NF4(double_quant=False) with device='cpu'"))
    advice.buttons[0].press()
    assert (panel.choice.config, panel.choice.device) == (qt.NF4(double_quant=False), "cpu")


def plan_with(*changes: str) -> object:
    from types import SimpleNamespace

    from qtoolkit.records import Advice

    given = [Advice(change, True, 1, 1, 1000, 0, 4.0) for change in changes]
    return SimpleNamespace(advice=given)
