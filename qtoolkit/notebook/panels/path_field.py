"""Make a field for a path that lists the folders and files which go on with what is typed."""

from collections.abc import Sequence

from ipywidgets import Combobox

from qtoolkit.notebook.offered_words import paths
from qtoolkit.notebook.panels.field import Field, wide_field


def path_field(label: str, value: str = "", *, hint: str = "", suffixes: Sequence[str] = ()) -> Field:
    """Make a field whose list holds the folders at this place, each ending in "/", and the files with some endings.

    Any other text is taken too: a Hub id, or a text itself.

    Args:
        label: stands before it.
        value: the text that it has at first.
        hint: stands behind it.
        suffixes: ".gguf"; none for folders alone.
    """
    field = wide_field(Combobox, label, hint, value=value)

    def offer() -> None:
        field.control.options = paths(field.value, suffixes)

    field.on_change(offer)
    offer()
    return field
