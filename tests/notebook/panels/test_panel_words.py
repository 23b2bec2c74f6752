"""An error in a panel calls options by the labels of its boxes; calls in Python and what has no box stay."""

import pytest

from qtoolkit.errors import CheckpointError, ConfigError
from qtoolkit.notebook.panels.field import ErrorFields, choice_field, switch_field, text_field
from qtoolkit.notebook.panels.panel_words import headline_of_panel, panel_line

FIELDS: ErrorFields = {
    "num_tokens": text_field("Tokens"),
    "format": choice_field("Format", [("mlx", "mlx")], "mlx"),
    "for_": text_field("Made for"),
    "overwrite": switch_field("Replace the folder", value=False),
    "lossy": switch_field("Round", value=False),
    "private": switch_field("Public: everybody may see it", value=False),
    CheckpointError: text_field("Model"),
}
FIELDS["private"].ticked = False


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("num_tokens must be at least 2", "Tokens must be at least 2"),
        ("format must be one of mlx", "Format must be one of mlx"),
        ("out exists: give overwrite=True to replace it", "out exists: tick “Replace the folder” to replace it"),
        ("give lossy=True or format='mlx'", "tick Round or Format mlx"),
        ("for_='vllm': leave for_ out", "“Made for” vllm: leave “Made for” out"),
        ("it is public already: give private=False", "it is public already: tick “Public: everybody may see it”"),
        ("give private=True", "untick “Public: everybody may see it”"),
        ("give GPTQ(format='mlx'), or leave lossy out", "give GPTQ(format='mlx'), or leave lossy out"),
        ("give resume=False", "give resume=False"),
    ],
)
def test_options_are_called_by_their_labels(before: str, after: str) -> None:
    assert panel_line(ConfigError(before), FIELDS) == after


def test_keys_of_a_file_keep_their_names() -> None:
    message = "num_tokens of a/num_tokens=5 is 0"
    assert panel_line(CheckpointError(message), FIELDS) == message


def test_a_sentence_sends_to_panels_and_not_to_magics() -> None:
    said = "saved to a. Quality is not measured yet: %qeval or qt.evaluate does it."
    assert headline_of_panel(said) == "saved to a. Quality is not measured yet: the panel Compare does it."
    said = "saved to a. Not verified yet: %qverify or qt.verify does it."
    assert headline_of_panel(said) == "saved to a. Not verified yet: the panel Publish does it."
