"""Write what a message calls options in Python, `seq_len=64`, as they stand on the line of a magic: `--seq-len 64`."""

import re

from qtoolkit.methods import available_methods, config_class
from qtoolkit.notebook.lines import MAGICS
from qtoolkit.notebook.option_words import plain, with_other_words
from qtoolkit.notebook.options import LineOption, config_options


def in_words_of_line(message: str, magic: str, *, has_body: bool, names_options: bool) -> str:
    """Return a message in the words of a magic's line.

    Args:
        message: of an error that a verb or a method raised.
        magic: the magic's name without `%`; one without options of a verb leaves the message as it is.
        has_body: whether the method's options are in the body of a cell, where they are written as in Python.
        names_options: whether the message speaks of options, and not of a file, whose keys may have the same names.

    Example:
        >>> message = "out exists: name another output, or give overwrite=True to replace it"
        >>> in_words_of_line(message, "quantize", has_body=False, names_options=False)
        'out exists: name another output, or give --overwrite to replace it'
        >>> message = "out has asymmetric codes: give lossy=True or format='compressed-tensors'"
        >>> in_words_of_line(message, "qconvert", has_body=False, names_options=True)
        'out has asymmetric codes: give --lossy or FORMAT compressed-tensors'
        >>> in_words_of_line("device must be auto or cpu", "quantize", has_body=False, names_options=True)
        '--device must be auto or cpu'
    """
    options = _options_of(magic, has_body=has_body)
    if not options:
        return message
    # What follows the model on the line without an option.
    words = {word.lower(): word for word in MAGICS[magic].words[1:] if word.lower() not in options}

    def bare(name: str) -> str:
        return options[name].flags[0] if name in options and names_options and "_" in name else name

    def given(name: str, value: str) -> str:
        return f"{words[name]} {plain(value)}".rstrip() if name in words else _written(options[name], value)

    said = with_other_words(message, (*options, *words), given=given, bare=bare)
    first = re.match(r"(\w+) must ", said)
    # A message of an option begins with its name, which of one word alone could be any word elsewhere.
    if names_options and first and first[1] in (*options, *words):
        name = first[1]
        return (words[name] if name in words else options[name].flags[0]) + said.removeprefix(name)
    return said


def _options_of(magic: str, *, has_body: bool) -> dict[str, LineOption]:
    """Return the options that the line of a magic may have, by the names that they have in Python."""
    syntax = MAGICS.get(magic)
    if syntax is None:
        return {}
    of_methods = available_methods() if syntax.has_method and not has_body else ()
    known = {option.name: option for name in of_methods for option in config_options(config_class(name))}
    return known | {option.name: option for option in syntax.options}


def _written(option: LineOption, value: str) -> str:
    """Write an option and its value, which may be missing: "give one as base="."""
    if not value:
        return option.flags[0]
    if option.metavar:
        return f"{option.flags[0]} {plain(value)}"
    wanted = value == "True"
    if len(option.flags) == 2:
        return option.flags[0 if wanted else 1]
    return option.flags[0] if wanted == option.sets else f"no {option.flags[0]}"
