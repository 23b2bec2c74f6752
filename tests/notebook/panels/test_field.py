"""Which field an error is about."""

import pytest

from qtoolkit.errors import ConfigError, GatedModelError, ModelNotFoundError, SourceError
from qtoolkit.notebook.panels.field import ErrorFields, field_of_error, text_field


@pytest.fixture
def places() -> ErrorFields:
    """Classes first, and yet they are asked last."""
    kinds = {ModelNotFoundError: text_field("Folder"), SourceError: text_field("Repository")}
    return {**kinds, "text": text_field("Text"), "license": text_field("Licence")}


@pytest.mark.parametrize(
    ("error", "place"),
    [
        (ConfigError("text must be a file"), "Text"),
        (ConfigError("the licence is not known: give it, license='mit' for example"), "Licence"),
        (ModelNotFoundError("'x' is no folder"), "Folder"),
        (GatedModelError("me/x needs a token"), "Repository"),
        (SourceError("text: the Dataset cannot be read"), "Text"),
        (SourceError("my text is no folder"), "Repository"),
        (ConfigError("textual is no method"), None),
        (ConfigError("bits must be 4"), None),
        (ValueError("text must be str, not bytes"), None),
    ],
    ids=lambda value: str(value).replace(" ", "_"),
)
def test_by_the_argument_that_it_names_or_else_by_its_class(
    places: ErrorFields, error: Exception, place: str | None
) -> None:
    field = field_of_error(error, places)
    assert (field and field.control.description) == place


def test_what_was_wrong_with_a_value_is_taken_back_with_it() -> None:
    field = text_field("Text", "a")
    field.set_problem("no such text")
    field.value = "b"
    assert field.problem == ""
