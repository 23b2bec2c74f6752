"""Make the fields that several panels have: the model, the program, and the method with its options and the device."""

from ipywidgets import VBox

from qtoolkit.notebook.panels.config_form import ConfigForm
from qtoolkit.notebook.panels.field import Field, choice_field, text_field
from qtoolkit.notebook.panels.keyword_field import keyword_field
from qtoolkit.notebook.panels.panel_choice import PanelChoice
from qtoolkit.readers import READER_NAMES
from qtoolkit.requests import Request


def model_field(choice: PanelChoice) -> Field:
    """Make a field that shows the chosen model; typing into it chooses another one."""
    field = text_field("Model", choice.model, hint="a Hub id, a folder, or a .gguf file")
    field.on_change(lambda: setattr(choice, "model", field.value))

    def follow(change: dict[str, str]) -> None:
        if field.value != change["new"]:
            field.value = change["new"]

    choice.observe(follow, names="model")
    return field


def reader_field(choice: PanelChoice, request: type[Request]) -> Field:
    """Make a menu of the programs that shall load the result, which shows the chosen one and sets it."""
    menu = [("any program", ""), *((name, name) for name in READER_NAMES)]
    field = keyword_field(
        request,
        "for_",
        "Made for",
        hint="the program that will run the result: options that it cannot load are refused before any work",
        menu=menu,
    )
    field.value = choice.for_
    field.on_change(lambda: setattr(choice, "for_", field.value))

    def follow(change: dict[str, str]) -> None:
        if field.value != change["new"]:
            field.value = change["new"]

    choice.observe(follow, names="for_")
    return field


class MethodFields:
    """Fields for the method, its options and the device, which set the choice's config and device.

    Attributes:
        box: the widget to put on the page.
        form: the method and its options.
        device: the field for the device.
    """

    def __init__(self, choice: PanelChoice) -> None:
        self._choice = choice
        self.form = ConfigForm(self._change_config)
        devices = [("the first GPU, or the CPU", "auto"), ("CPU", "cpu"), ("GPU", "cuda")]
        self.device = choice_field("Device", devices, choice.device)
        self.device.on_change(lambda: setattr(choice, "device", self.device.value))
        self.box = VBox([self.form.box, self.device.box])
        self._change_config()

    def _change_config(self) -> None:
        self._choice.config = self.form.config
