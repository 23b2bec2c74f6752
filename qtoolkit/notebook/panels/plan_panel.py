"""Choose a method with its options, and see whether it fits, as one types."""

from html import escape

from ipywidgets import HTML, VBox

from qtoolkit.errors import SourceError
from qtoolkit.notebook.panels.background import PAUSE, Lookup
from qtoolkit.notebook.panels.call import Call
from qtoolkit.notebook.panels.choice import Choice
from qtoolkit.notebook.panels.field import Field, Places, choice_field, place_of, text_field, told
from qtoolkit.notebook.panels.form import ConfigForm
from qtoolkit.notebook.panels.model_panel import call_html
from qtoolkit.records import Plan
from qtoolkit.records.html import bars
from qtoolkit.units import format_bytes

_MARKS = {"fits": "✔", "tight": "⚠", "does not fit": "✖"}


def model_field(choice: Choice) -> Field:
    """A field for the model that is chosen; what is typed there chooses it too."""
    field = text_field("Model", choice.model, hint="a Hub id, a folder, or a .gguf file")
    field.on_change(lambda: setattr(choice, "model", field.value))

    def follow(change: dict[str, str]) -> None:
        if field.value != change["new"]:
            field.value = change["new"]

    choice.observe(follow, names="model")
    return field


class MethodFields:
    """Fields for the method, its options and the device, which make the choice's config.

    Attributes:
        box: what is put on the page.
        form: the method and its options.
        device: the field for the device.
    """

    def __init__(self, choice: Choice) -> None:
        self._choice = choice
        self.form = ConfigForm(self._changed)
        places = [("the first GPU, or the CPU", "auto"), ("CPU", "cpu"), ("GPU", "cuda")]
        self.device = choice_field("Device", places, choice.device)
        self.device.on_change(lambda: setattr(choice, "device", self.device.value))
        self.box = VBox([self.form.box, self.device.box])
        self._changed()

    def _changed(self) -> None:
        self._choice.config = self.form.config


class PlanPanel:
    """What a job would do, need and make, predicted whenever a field changes.

    Args:
        choice: the model; takes config, device and plan.
        pause: seconds without another change before it is planned.

    Attributes:
        box: what is put on the page.
        model, methods, machine: the fields.
        verdict: HTML with the prediction.
        lookup: the planning.
    """

    def __init__(self, choice: Choice, *, pause: float = PAUSE) -> None:
        self._choice = choice
        self.model, self.methods = model_field(choice), MethodFields(choice)
        self.machine = text_field("Machine", hint="t4, l4, a100-80, cpu-12gb, ...; empty for this one")
        self.call, self.verdict = HTML(), HTML()
        device = self.methods.device
        self._places: Places = {"machine": self.machine, "device": device, SourceError: self.model}
        fields = [self.model.box, self.methods.box, self.machine.box]
        self.box = VBox([*fields, self.call, self.verdict])
        self.lookup = Lookup(lambda call, chosen: (call.make(), chosen), self._show, self._fail, pause=pause)
        choice.observe(lambda change: self._look(), names=["model", "config", "device"])
        self.machine.on_change(self._look)
        self._look()

    def _look(self) -> None:
        self._choice.plan = None
        self.lookup.drop()
        for field in self._places.values():
            field.complain("")
        if not self._choice.model or self._choice.config is None:
            missing = "a model" if self._choice.config else "what is marked above"
            self.call.value, self.verdict.value = call_html(None, f"A plan needs {missing}."), ""
            return
        given = {"device": self._choice.device if self._choice.device != "auto" else "", "machine": self.machine.value}
        options = {name: value for name, value in given.items() if value}
        call = Call("plan", (self._choice.model, self._choice.config), options)
        self.call.value, self.verdict.value = call_html(call), _status("planning")
        self.lookup.want(call, self._choice.quantized())

    def _show(self, answer: tuple[Plan, object]) -> None:
        plan, chosen = answer
        # Of another machine, it predicts nothing for a job here.
        self._choice.plan = plan if chosen == self._choice.quantized() and not self.machine.value else None
        self.verdict.value = plan_html(plan)

    def _fail(self, error: Exception) -> None:
        field = place_of(error, self._places)
        if field:
            field.complain(told(error))
        self.verdict.value = _status("no plan: something above is marked" if field else f"⚠ {told(error)}")


def plan_html(plan: Plan) -> str:
    """A plan as a verdict, a bar for each phase, and below these all of its rows."""
    verdict = f"{_MARKS.get(plan.verdict, '')} {plan.verdict or 'nothing is known of the machine'}"
    size = f"{format_bytes(plan.source.footprint)} become {format_bytes(plan.footprint_after)}"
    head = f"{verdict}: {size}, {format_bytes(plan.disk_after)} on disk"
    problems = "".join(f"<div>{escape(line)}</div>" for line in (*plan.problems, *plan.tight))
    picture = bars("Main memory of each phase", _bars(plan, "peak_rss", plan.machine.memory if plan.machine else 0))
    if plan.peak_vram:
        vram = sum(plan.machine.vram) if plan.machine else 0
        picture += bars("GPU memory of each phase", _bars(plan, "peak_vram", vram))
    return (
        f'<div class="qtk-text"><div role="status" style="font-weight:bold">{escape(head)}</div>{problems}{picture}'
        f"<details><summary>All of the plan</summary>{plan._repr_html_()}</details></div>"
    )


def _bars(plan: Plan, what: str, limit: int) -> list[tuple[str, int, str]]:
    """A bar for each phase, and one for what the machine has."""
    sizes = [(phase.name, getattr(phase, what)) for phase in plan.phases]
    if plan.machine is not None and limit:
        sizes.append((f"{plan.machine.name} has", limit))
    return [(name, size, format_bytes(size)) for name, size in sizes]


def _status(text: str) -> str:
    return f'<div role="status" class="qtk-text">{escape(text)}</div>'
