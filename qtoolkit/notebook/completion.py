"""Complete the lines of magics with options: models of the local cache, options, methods, values."""

import re
from typing import Any

from IPython.core.error import TryNext

from qtoolkit.errors import QToolkitError
from qtoolkit.methods import available_methods, config_class
from qtoolkit.notebook.lines import MAGICS, METHOD, method_in
from qtoolkit.notebook.options import LineOption, config_options

# The line up to the cursor: also after `x = `, and without `%` at its start, where IPython's automagic adds it.
COMPLETED = rf"(?:\s*|.*?(%%?))({'|'.join(MAGICS)})\s(.*)$"


def complete(shell: Any, event: Any) -> list[str]:
    """Return the words that may stand at the cursor; IPython keeps those that begin like what is typed.

    Args:
        shell: the IPython shell, which calls this as a method of it.
        event: IPython's, with `text_until_cursor` and `line`.

    Raises:
        TryNext: no word of qtoolkit fits here; IPython then tries its own completions, such as files.
    """
    match = re.match(COMPLETED, event.text_until_cursor)
    if match is None:
        raise TryNext
    syntax = MAGICS[match[2]]
    words = match[3].split(" ")
    options = {flag: option for option in syntax.options for flag in option.flags}
    if syntax.has_method and match[1] != "%%":
        options |= {flag: option for option in _method_options(event.line) for flag in option.flags}
    before, _, value = words.pop().rpartition("=")
    option = options.get(before or (words[-1] if words else ""))
    if option is not None and option.metavar:
        found = list(available_methods() if option.name in ("method", "methods") else option.choices)
    elif value.startswith("-") or _has_word(words, options):
        found = list(options)
    elif syntax.words[0] == "FOLDER":
        # IPython completes folders.
        found = []
    else:
        from qtoolkit import local_models

        found = list(local_models())
    if not found:
        raise TryNext
    return found


def _method_options(line: str) -> list[LineOption]:
    """Return `--method`, and the options of the method that the line chooses."""
    try:
        return [METHOD, *config_options(config_class(method_in(line.split())))]
    except QToolkitError:
        return [METHOD]


def _has_word(words: list[str], options: dict[str, LineOption]) -> bool:
    """Check whether one of the words is neither an option nor an option's value."""
    taken = {flag for flag, option in options.items() if option.metavar}
    pairs = zip(["", *words], words, strict=False)
    return any(word and not word.startswith("-") and previous not in taken for previous, word in pairs)
