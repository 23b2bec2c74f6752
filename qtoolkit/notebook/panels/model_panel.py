"""Choose a model: one at hand as it opens, or one that is found on this machine or on the Hub while one types."""

from datetime import datetime
from html import escape

from ipywidgets import HTML, Select, VBox

from qtoolkit.files import current_folder
from qtoolkit.hub.at_hand import ModelAtHand, models_at_hand
from qtoolkit.measure.memory_limits import available_memory
from qtoolkit.notebook.panels.background import PAUSE, Lookup
from qtoolkit.notebook.panels.field import error_line, text_field, wide_field
from qtoolkit.notebook.panels.panel_choice import PanelChoice
from qtoolkit.notebook.panels.verb_call import VerbCall, call_html
from qtoolkit.planning.rough_fit import roughly_fits
from qtoolkit.records import FoundModel, FoundModels
from qtoolkit.records.html import table
from qtoolkit.units import format_bytes

_LOOKING = [("looking", "")]
_MARKS = {True: "✔ ", False: "✖ ", None: ""}
_LEGEND = "✔ fits the memory of this machine in four bits, ✖ does not: roughly, by its size; a plan tells exactly"
_AT_HAND = "Models on this machine, and small ones to begin with. Type a name to search the Hub too."


class ModelPanel:
    """The models at hand, a search while somebody types, and a description of the model that is chosen.

    As it opens, no network is asked and no torch imported.

    Args:
        choice: is given the model.
        pause: seconds without another key before the Hub is asked.

    Attributes:
        box: the widget to put on the page.
        search, found: the fields.
        details: HTML about the model that is chosen.
        lookup: the search.
    """

    def __init__(self, choice: PanelChoice, *, pause: float = PAUSE) -> None:
        self._choice = choice
        self._models: dict[str, FoundModel | ModelAtHand] = {}
        self.search = text_field("Search", choice.model, hint="part of a name on the Hub, a folder, or a .gguf file")
        self.found = wide_field(Select, "Found", _LEGEND, options=_LOOKING, rows=10)
        # Its lines are long.
        self.found.control.layout.width = "56em"
        self.call = HTML()
        self.details = HTML()
        self.box = VBox([self.search.box, self.call, self.found.box, self.details])
        self.lookup = Lookup(
            lambda call, chosen: (call.run() if call else models_at_hand(current_folder()), chosen),
            self._show,
            lambda error: self.search.set_problem(error_line(error)),
            pause=pause,
        )
        self.search.on_change(self._look)
        self.found.on_change(self._choose)
        self._look()

    def refresh(self) -> None:
        """List the models at hand again: called when the panel is turned to, after a job may have made one."""
        if not self.search.value:
            self._look()

    def _look(self) -> None:
        text = self.search.value
        call = VerbCall("find_models", (text,)) if text else None
        self.call.value = call_html(call, _AT_HAND)
        self.search.set_problem("")
        self.lookup.drop()
        self.found.control.options = _LOOKING
        self.lookup.start(call, self._choice.model)

    def _show(self, answer: tuple[FoundModels | tuple[ModelAtHand, ...], str]) -> None:
        found, chosen = answer
        models = found.models if isinstance(found, FoundModels) else found
        self._models = {model.name: model for model in models}
        room = available_memory()
        # ipywidgets selects the first entry itself, so that is no model.
        options = [(_head(found), ""), *((_line(model, room), model.name) for model in models)]
        self.found.control.options = options
        if isinstance(found, FoundModels):
            if found.text in self._models and self._choice.model == chosen:
                # The full name of one was typed: choose it, unless another one was chosen while the Hub was asked.
                self.found.value = found.text
            self.found.set_problem("; ".join(found.notes))

    def _choose(self) -> None:
        model = self._models.get(self.found.value)
        if isinstance(model, FoundModel) and model.holds_files:
            # Its files are found by its whole name.
            self.search.value = model.name
        elif model is not None:
            self._choice.model = model.name
            if isinstance(model, FoundModel):
                details = table(model.name, model.rows()[1:])
            else:
                details = escape(_line(model, available_memory()))
            self.details.value = f'<div class="qtk-text">{details}</div>'


def _head(found: FoundModels | tuple[ModelAtHand, ...]) -> str:
    """Return the first entry of the list, which tells how many there are."""
    if not isinstance(found, FoundModels):
        here = sum(bool(model.changed) for model in found)
        return f"{here} on this machine, {len(found) - here} to download: choose one"
    if not found.models:
        return "nothing found: another name, or org/name"
    return f"{len(found.models)} found" + ": choose one" * (len(found.models) > 1)


def _line(model: FoundModel | ModelAtHand, room: int) -> str:
    """Write a model as an entry of the list; its name first, since a narrow cell cuts off the end.

    Args:
        model: a model that was found.
        room: bytes of main memory that are free.
    """
    if isinstance(model, ModelAtHand):
        day = datetime.fromtimestamp(model.changed).date().isoformat() if model.changed else ""  # noqa: DTZ006
        parts = (model.name, model.place, format_bytes(model.size), "quantized" if model.quantized else "", day)
        quantized = model.quantized
    else:
        _, location, _, num_parameters, size, license_name, *_ = model.cells()
        parameters = f"{num_parameters} parameters" if num_parameters else ""
        parts = (model.name, location, parameters, size, license_name or "")
        quantized = model.quantized is not None
    fits = None if model.size is None else roughly_fits(model.size, room, quantized=quantized)
    return _MARKS[fits] + ", ".join(filter(None, parts))
