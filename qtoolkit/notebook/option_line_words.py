"""Complete the line of a magic: its model, its options in the order of its help, and their values."""

from collections.abc import Mapping, Sequence
from typing import Any

from qtoolkit.errors import QToolkitError
from qtoolkit.formats import available_formats
from qtoolkit.methods import available_methods, config_class
from qtoolkit.notebook.lines import MAGICS, METHOD, MagicSyntax, method_in
from qtoolkit.notebook.offered_words import MODEL_FILES, TEXT_FILES, Offered, path_words
from qtoolkit.notebook.options import LineOption, config_options

# Offered where no model is at hand.
_EXAMPLE = "HuggingFaceTB/SmolLM2-135M-Instruct"


def line_words(
    magic: str, before: str, whole: str, variables: Mapping[str, Any], *, in_cell: bool = False
) -> Offered | None:
    """Return the words that may stand at the cursor; None where nothing is known, as within quotes.

    Args:
        magic: the magic's name without `%`.
        before: what stands between it and the cursor.
        whole: the whole line, whose method may be named behind the cursor.
        variables: the person's own.
        in_cell: whether the method's options are in the cell's body.
    """
    syntax = MAGICS[magic]
    if before.count("'") % 2 or before.count('"') % 2:
        return None
    *words, typed = before.split(" ")
    words = [word for word in words if word]
    options = _options(syntax, whole, in_cell=in_cell)
    by_flag = {flag: option for option in options for flag in option.flags}
    # `--text=b`, but not the share in `--calibration c4=0.5`.
    flag, equals, value = typed.partition("=") if typed.startswith("-") else (typed, "", "")
    option = by_flag.get(flag) if equals else by_flag.get(words[-1] if words else "")
    if option is not None and option.metavar:
        return _values(option, value if equals else typed, variables)
    number = _count_words(words, by_flag)
    if typed.startswith("-") or number >= len(syntax.words):
        return Offered(typed, _flags(options, words), "option")
    return _argument(syntax.words[number], typed, variables)


def _options(syntax: MagicSyntax, line: str, *, in_cell: bool) -> list[LineOption]:
    """Return the options that a line may have: `--method` first, then those of the job, then the method's."""
    if not syntax.has_method or in_cell:
        return list(syntax.options)
    try:
        of_method = config_options(config_class(method_in(line.split())))
    except QToolkitError:
        of_method = ()
    return [METHOD, *syntax.options, *of_method]


def _flags(options: Sequence[LineOption], words: Sequence[str]) -> list[str]:
    """Return the flags of the options that are not given yet, or may be given again."""
    given = {word.partition("=")[0] for word in words}
    return [
        flag for option in options if option.several or not given.intersection(option.flags) for flag in option.flags
    ]


def _values(option: LineOption, typed: str, variables: Mapping[str, Any]) -> Offered:
    """Return the values that an option may have; of a list, those that it does not have yet."""
    several = option.several or option.name in ("methods", "calibration")
    earlier, _, fragment = typed.rpartition(",") if several else ("", "", typed)
    choices = available_methods() if option.name in ("method", "methods") else option.choices
    taken = {one.partition("=")[0] for one in earlier.split(",")}
    words = [choice for choice in choices if choice not in taken]
    if option.in_variable:
        words += _variables(variables, any_model=option.name == "base")
    if option.takes_path:
        suffixes = () if option.metavar == "DIR" or option.name == "methods" else TEXT_FILES
        words += path_words(fragment, suffixes)
    return Offered(fragment, words or [option.default] * bool(option.default))


def _argument(what: str, typed: str, variables: Mapping[str, Any]) -> Offered:
    """Return what may stand on a line without an option: "MODEL", "FORMAT", "FOLDER"."""
    if what == "MODEL":
        # huggingface_hub, which `%load_ext` does without.
        from qtoolkit.hub.cache import cached_names

        known = [*_variables(variables, any_model=True), *cached_names()]
        return Offered(typed, [*known, *path_words(typed, MODEL_FILES)] or [_EXAMPLE], "model")
    return Offered(typed, available_formats() if what == "FORMAT" else path_words(typed) if what == "FOLDER" else ())


def _variables(variables: Mapping[str, Any], *, any_model: bool) -> list[str]:
    """Return the names of a person's variables that hold models, or else what qtoolkit measured."""
    found = []
    for name, value in variables.items():
        kind = type(value)
        own = kind.__module__.partition(".")[0] == "qtoolkit"
        is_model = kind.__name__ == "QuantizedModel" if own else hasattr(kind, "get_memory_footprint")
        if not name.startswith("_") and (is_model if any_model else own and not is_model):
            found.append(name)
    return sorted(found)


def _count_words(words: Sequence[str], options: Mapping[str, LineOption]) -> int:
    """Count the words that are neither an option nor an option's value."""
    taken = {flag for flag, option in options.items() if option.metavar}
    pairs = zip(["", *words], words, strict=False)
    return sum(not word.startswith("-") and previous not in taken for previous, word in pairs)
