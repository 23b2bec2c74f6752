"""Find a model on this machine or on the Hub."""

from html import escape

from ipywidgets import HTML, VBox

from qtoolkit.notebook.panels.background import PAUSE, Lookup
from qtoolkit.notebook.panels.call import Call
from qtoolkit.notebook.panels.choice import Choice
from qtoolkit.notebook.panels.field import list_field, text_field, told
from qtoolkit.records import FoundModel, FoundModels

_LOOKING = [("looking", "")]


class ModelPanel:
    """A search as one types, and what is known of the model that is chosen.

    Args:
        choice: takes the model.
        pause: seconds without another key before the Hub is asked.

    Attributes:
        box: what is put on the page.
        search, found: the fields.
        details: HTML about the model that is chosen.
        lookup: the search.
    """

    def __init__(self, choice: Choice, *, pause: float = PAUSE) -> None:
        self._choice = choice
        self._models: dict[str, FoundModel] = {}
        self.search = text_field("Search", choice.model, hint="part of a name on the Hub, a folder, or a .gguf file")
        self.found = list_field("Found", _LOOKING)
        self.call, self.details = HTML(), HTML()
        self.box = VBox([self.search.box, self.call, self.found.box, self.details])
        self.lookup = Lookup(lambda call, chosen: (call.make(), chosen), self._show, self._fail, pause=pause)
        self.search.on_change(self._look)
        self.found.on_change(self._choose)
        self._look()

    def _look(self) -> None:
        text = self.search.value
        # Before anything is typed, what is on this machine; the Hub is not asked for all that it has.
        call = Call("find_models", (text,) if text else (), {} if text else {"hub": False})
        self.call.value = call_html(call)
        self.search.complain("")
        self.lookup.drop()
        self.found.control.options = _LOOKING
        self.lookup.want(call, self._choice.model)

    def _show(self, answer: tuple[FoundModels, str]) -> None:
        found, chosen = answer
        self._models = {model.name: model for model in found.models}
        # The first entry is chosen by ipywidgets itself, so it is none.
        head = f"{len(self._models)} found: choose one" if self._models else "nothing found"
        options = [(head, ""), *((_line(model), model.name) for model in found.models)]
        self.found.control.options = options
        if found.text in self._models and self._choice.model == chosen:
            # A whole name, or a path, leaves nothing to be chosen; unless another was chosen while the Hub was asked.
            self.found.value = found.text
        self.found.complain("; ".join(found.notes))

    def _fail(self, error: Exception) -> None:
        self.search.complain(told(error))

    def _choose(self) -> None:
        model = self._models.get(self.found.value)
        if model is not None:
            self._choice.model = model.name
            self.details.value = f'<div class="qtk-text">{model._repr_html_()}</div>'


def call_html(call: Call | None, instead: str = "") -> str:
    """A call as Python that can be copied, or what stands in its place."""
    shown = f"<code>{escape(str(call))}</code>" if call else escape(instead)
    return f'<div class="qtk-text">{shown}</div>'


def _line(model: FoundModel) -> str:
    """A model in a list: its name first, since a narrow cell cuts off the end."""
    _, place, _, num_parameters, size, license_name, *_ = model.cells()
    parts = (model.name, place, num_parameters and f"{num_parameters} parameters", size, license_name)
    return ", ".join(filter(None, parts))
