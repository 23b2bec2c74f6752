"""A plan says first which share of the weights is quantized, and names the methods that take more of few."""

from typing import Any

import pytest

import qtoolkit as qt
from qtoolkit.planning import share
from qtoolkit.planning.layers import Modules, Planned
from qtoolkit.records import Plan
from tests.sample_models import random_model

MIXTURE, DENSE = (random_model(name, vocab_size=64).config for name in ("mixtral", "llama"))
# A block's attention, 64 x 64 twice and 64 x 32 twice, and its four experts of three layers.
ATTENTION, EXPERTS = 2 * (64 * 64 + 64 * 32), 4 * 3 * 64 * 128
# Embedding and output head; two norms a block and one more; a router a block.
OTHERS = 2 * 64 * 64 + 5 * 64 + 2 * 4 * 64
TOTAL = 2 * (ATTENTION + EXPERTS) + OTHERS


def shown(plan: Plan) -> list[tuple[str, str, str]]:
    return [tuple(row) for row in plan.rows()[:2]]


def test_a_plan_begins_with_the_share_of_quantized_weights() -> None:
    row, _ = shown(qt.plan(MIXTURE, "int8", machine="laptop-16gb"))
    quantized = 2 * ATTENTION
    assert row == ("quantized weights", f"{100 * quantized / TOTAL:.1f} %", f"{quantized:,} of {TOTAL:,}")


def test_few_weights_are_warned_of_with_what_takes_more() -> None:
    _, (label, warning, _) = shown(qt.plan(MIXTURE, "int8", machine="laptop-16gb"))
    stay, gptq = (100 * part / TOTAL for part in (TOTAL - 2 * ATTENTION, 2 * (ATTENTION + EXPERTS)))
    assert label == "warning"
    assert warning.startswith(f"{stay:.1f} % of the weights stay in bfloat16: ")
    taking = "AbsMax(), FP4(), FP8(), GPTQ(), NF4(), W8A8() or ZeroPoint()"
    assert warning.endswith(f"; {taking} would quantize {gptq:.1f} %")


def test_methods_are_those_of_the_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(share, "available_methods", lambda: ("int8",))
    plan = qt.plan(MIXTURE, "int8", machine="laptop-16gb")
    assert [warning.partition(": ")[2] for warning in plan.warnings] == ["no other method takes more of them"]


def test_what_a_person_excludes_is_left_out_of_the_advice() -> None:
    config = qt.NF4(exclude=("lm_head", "*.experts*"))
    (warning,) = qt.plan(MIXTURE, config, machine="laptop-16gb").warnings
    assert "GPTQ" not in warning


def test_no_other_method_is_asked_where_half_is_quantized(monkeypatch: pytest.MonkeyPatch) -> None:
    planned: list[str] = []
    real = Modules.planned

    def counted(self: Modules, method: Any, config: Any, device: str) -> Planned:
        planned.append(method.name)
        return real(self, method, config, device)

    monkeypatch.setattr(Modules, "planned", counted)
    plan = qt.plan(DENSE, "nf4", machine="laptop-16gb")
    assert plan.num_quantized > plan.source.num_parameters / 2
    assert (plan.warnings, planned) == ((), ["nf4"])
