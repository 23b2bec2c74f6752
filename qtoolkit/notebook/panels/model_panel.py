"""Find a model on this machine or on the Hub, and choose it."""

from ipywidgets import HTML, Select, VBox

from qtoolkit.notebook.panels.background import PAUSE, Lookup
from qtoolkit.notebook.panels.field import error_line, text_field, wide_field
from qtoolkit.notebook.panels.panel_choice import PanelChoice
from qtoolkit.notebook.panels.verb_call import VerbCall, call_html
from qtoolkit.records import FoundModel, FoundModels

_LOOKING = [("looking", "")]


class ModelPanel:
    """A search while somebody types, and a description of the model that is chosen.

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
        self._models: dict[str, FoundModel] = {}
        self.search = text_field("Search", choice.model, hint="part of a name on the Hub, a folder, or a .gguf file")
        self.found = wide_field(Select, "Found", options=_LOOKING, rows=8)
        self.call = HTML()
        self.details = HTML()
        self.box = VBox([self.search.box, self.call, self.found.box, self.details])
        self.lookup = Lookup(
            lambda call, chosen: (call.run(), chosen),
            self._show,
            lambda error: self.search.set_problem(error_line(error)),
            pause=pause,
        )
        self.search.on_change(self._look)
        self.found.on_change(self._choose)
        self._look()

    def _look(self) -> None:
        text = self.search.value
        # Before anything is typed, only this machine is searched; the Hub has too many.
        call = VerbCall("find_models", (text,) if text else (), {} if text else {"hub": False})
        self.call.value = call_html(call)
        self.search.set_problem("")
        self.lookup.drop()
        self.found.control.options = _LOOKING
        self.lookup.start(call, self._choice.model)

    def _show(self, answer: tuple[FoundModels, str]) -> None:
        found, chosen = answer
        self._models = {model.name: model for model in found.models}
        # ipywidgets selects the first entry itself, so that is no model.
        head = f"{len(self._models)} found: choose one" if self._models else "nothing found"
        options = [(head, ""), *((_line(model), model.name) for model in found.models)]
        self.found.control.options = options
        if found.text in self._models and self._choice.model == chosen:
            # The full name of one was typed: choose it, unless another one was chosen while the Hub was asked.
            self.found.value = found.text
        self.found.set_problem("; ".join(found.notes))

    def _choose(self) -> None:
        model = self._models.get(self.found.value)
        if model is not None and model.holds_files:
            # Its files are found by its whole name.
            self.search.value = model.name
        elif model is not None:
            self._choice.model = model.name
            self.details.value = f'<div class="qtk-text">{model._repr_html_()}</div>'


def _line(model: FoundModel) -> str:
    """Write a model as an entry of the list; its name first, since a narrow cell cuts off the end."""
    _, location, _, num_parameters, size, license_name, *_ = model.cells()
    parts = (model.name, location, num_parameters and f"{num_parameters} parameters", size, license_name)
    return ", ".join(filter(None, parts))
