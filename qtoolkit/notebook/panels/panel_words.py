"""Write what a message calls options in Python, `overwrite=True`, by the labels of a panel's boxes."""

import re
from collections.abc import Mapping

from ipywidgets import Checkbox

from qtoolkit.errors import ConfigError
from qtoolkit.notebook.option_words import plain, with_other_words
from qtoolkit.notebook.panels.field import ErrorFields, Field, error_line


def panel_line(error: BaseException, fields: ErrorFields) -> str:
    """Write an error as one line in the words of a panel.

    Args:
        error: what a verb raised.
        fields: the fields of the panel by the names that they have in Python; one that is not there keeps that name.
    """
    named = {name: field for name, field in fields.items() if isinstance(name, str)}
    return in_words_of_panel(error_line(error), named, names_options=isinstance(error, ConfigError))


def in_words_of_panel(message: str, fields: Mapping[str, Field], *, names_options: bool) -> str:
    """Return a message with the labels of boxes in place of the names of options.

    Args:
        message: of an error that a verb raised.
        fields: the fields by the names that they have in Python.
        names_options: whether the message speaks of options, and not of a file, whose keys may have the same names.

    Example: with a box to tick, `overwrite`, that is called "Replace it".

        "out exists: give overwrite=True to replace it" becomes "out exists: tick “Replace it” to replace it".
    """

    def given(name: str, value: str) -> str:
        label = _label(fields[name])
        if isinstance(fields[name].control, Checkbox) and value in ("True", "False"):
            return f"{'tick' if value == str(fields[name].ticked) else 'untick'} {label}"
        return f"{label} {plain(value)}".rstrip()

    def bare(name: str) -> str:
        return _label(fields[name]) if names_options and "_" in name else name

    said = with_other_words(message, fields, given=given, bare=bare)
    said = re.sub(r"\b(?:give|say) ((?:un)?tick )", r"\1", said)
    first = re.match(r"\w+", said)
    # A message of an option begins with its name, one word or several.
    return _label(fields[first[0]]) + said[first.end() :] if first and first[0] in fields and names_options else said


def headline_of_panel(headline: str) -> str:
    """Return a record's first sentence with the panels that go on in place of magics."""
    for others, name in (("%qeval or qt.evaluate", "Compare"), ("%qverify or qt.verify", "Publish")):
        headline = headline.replace(f": {others} does it", f": the panel {name} does it")
    return headline


def _label(field: Field) -> str:
    """Return the label of a field, between marks where it is more than a word."""
    label: str = field.control.description
    return f"“{label}”" if " " in label else label
