"""Choose a method with its options, and see while typing whether it fits."""

import threading
from contextlib import nullcontext
from html import escape

from ipywidgets import HTML, VBox

from qtoolkit.errors import SourceError
from qtoolkit.notebook.panels.advice_buttons import AdviceButtons
from qtoolkit.notebook.panels.background import PAUSE, Lookup
from qtoolkit.notebook.panels.field import ErrorFields, field_of_error
from qtoolkit.notebook.panels.keyword_field import given_options, keyword_field
from qtoolkit.notebook.panels.panel_choice import PanelChoice
from qtoolkit.notebook.panels.panel_words import panel_line
from qtoolkit.notebook.panels.shared_fields import MethodFields, model_field, reader_field
from qtoolkit.notebook.panels.verb_call import VerbCall, call_html
from qtoolkit.planning.machines import PROFILES
from qtoolkit.readers import result_line
from qtoolkit.records import Plan
from qtoolkit.requests import PlanRequest
from qtoolkit.units import format_bytes

# The first plan imports much of transformers, which parses sources. CPython before 3.13 fails where two threads do that
# at once (SystemError: AST constructor recursion depth mismatch). So others wait for the first one.
_FIRST, _FIRST_IS_MADE = threading.Lock(), threading.Event()
_MACHINES = "where the job shall run; of another machine, the memory that is free in a new session there counts"
_MARKS = {"fits": "✔", "tight": "⚠", "does not fit": "✖"}


class PlanPanel:
    """The plan of a job, made anew whenever a field changes.

    Args:
        choice: has the model; is given config, device and plan.
        methods: the fields of the method, which the panel Quantize shows too.
        pause: seconds without another change before a plan is made.

    Attributes:
        box: the widget to put on the page.
        model, methods, machine, for_: the fields.
        verdict: HTML with the plan.
        advice: buttons that set what would fit.
        lookup: makes the plan in a thread.
    """

    def __init__(self, choice: PanelChoice, methods: MethodFields, *, pause: float = PAUSE) -> None:
        self._choice = choice
        self.model = model_field(choice)
        self.methods = methods
        self.machine = keyword_field(PlanRequest, "machine", "Machine", hint=_MACHINES, menu=_machines())
        self.for_ = reader_field(choice, PlanRequest)
        self.call = HTML()
        self.verdict = HTML()
        self.advice = AdviceButtons(methods)
        self._error_fields: ErrorFields = {
            "machine": self.machine,
            "device": self.methods.device,
            "for_": self.for_,
            SourceError: self.model,
        }
        fields = [self.model.box, self.methods.box, self.machine.box, self.for_.box]
        self.box = VBox([*fields, self.call, self.verdict, self.advice.box])
        self.lookup = Lookup(_planned, self._show, self._show_error, pause=pause)
        choice.observe(lambda change: self._look(), names=["model", "config", "device", "for_"])
        self.machine.on_change(self._look)
        self._look()

    def _look(self) -> None:
        self._choice.plan = None
        self.lookup.drop()
        self.advice.show(None)
        for field in self._error_fields.values():
            field.set_problem("")
        if not self._choice.model or self._choice.config is None:
            missing = "a model" if self._choice.config else "what is marked above"
            self.call.value = call_html(None, f"A plan needs {missing}.")
            self.verdict.value = ""
            return
        options = {**self._choice.device_option(), **given_options([self.machine, self.for_])}
        call = VerbCall("plan", (self._choice.model, self._choice.config), options)
        self.call.value = call_html(call)
        self.verdict.value = _status("planning")
        self.lookup.start(call, self._choice.quantized())

    def _show(self, answer: tuple[Plan, object]) -> None:
        plan, chosen = answer
        # A plan for another machine predicts nothing for a job here.
        self._choice.plan = plan if chosen == self._choice.quantized() and not self.machine.value else None
        self.verdict.value = plan_html(plan)
        self.advice.show(plan)

    def _show_error(self, error: Exception) -> None:
        field = field_of_error(error, self._error_fields)
        line = panel_line(error, self._error_fields)
        if field:
            field.set_problem(line)
        self.verdict.value = _status("no plan: something above is marked" if field else f"⚠ {line}")


def _planned(call: VerbCall, chosen: object) -> tuple[Plan, object]:
    """Return the plan that a call makes, and what was chosen when it was asked for."""
    with nullcontext() if _FIRST_IS_MADE.is_set() else _FIRST:
        plan: Plan = call.run()
    _FIRST_IS_MADE.set()
    return plan, chosen


def _machines() -> list[tuple[str, str]]:
    """Return this machine and each profile, with its memory, as entries of a menu."""
    return [
        ("this machine", ""),
        *(
            (f"{name}: {format_bytes(one.memory)}{''.join(f', GPU {format_bytes(size)}' for size in one.vram)}", name)
            for name, one in PROFILES.items()
        ),
    ]


def plan_html(plan: Plan) -> str:
    """Draw a plan: a verdict, a bar for each phase, and all of its rows folded below."""
    verdict = f"{_MARKS.get(plan.verdict, '')} {plan.verdict or 'nothing is known of the machine'}"
    size = f"{format_bytes(plan.source.footprint)} would become {format_bytes(plan.footprint_after)} in memory"
    told = "A forecast: nothing is done yet, the panel Quantize does it."
    head = f"{verdict}: {size}, {format_bytes(plan.disk_after)} on disk. {told}"
    reading = plan.reading
    if reading is None:
        loads = [line for line in [result_line(plan.readings)] if line]
    elif reading.loads:
        loads = [f"{reading.name} loads the result"]
    else:
        loads = [f"✖ {reading.name} does not load the result: {reading.reason}"]
        loads += [f"It would load {one.change}" for one in plan.advice]
    problems = "".join(f"<div>{escape(line)}</div>" for line in (*loads, *plan.problems, *plan.tight))
    return (
        f'<div class="qtk-text"><div role="status" style="font-weight:bold">{escape(head)}</div>{problems}'
        f"{plan.picture()}"
        f"<details><summary>All of the plan</summary>{plan.table()}</details></div>"
    )


def _status(text: str) -> str:
    return f'<div role="status" class="qtk-text">{escape(text)}</div>'
