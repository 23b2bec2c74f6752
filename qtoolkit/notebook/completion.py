"""Tab on the lines of magics with options: models of the local cache, options, methods, values."""

import re
from dataclasses import fields
from typing import Any

from IPython.core.error import TryNext

from qtoolkit.checkpoints.hub_names import BASE_MODEL_RELATIONS
from qtoolkit.errors import QToolkitError
from qtoolkit.methods import MethodConfig, available_methods, config_class
from qtoolkit.notebook.arguments import JOB_OPTIONS, method_in
from qtoolkit.notebook.comparing import COMPARE_OPTIONS
from qtoolkit.notebook.evaluating import EVAL_OPTIONS
from qtoolkit.notebook.opening import PANEL_OPTIONS
from qtoolkit.notebook.options import is_switch, option_flags, option_hints
from qtoolkit.notebook.publishing import PUBLISH_OPTIONS

# The line up to the cursor: also after `x = `, and without `%` at its start, where IPython's automagic adds it.
COMPLETED = r"(?:\s*|.*?(%%?))(quantize|qplan|qeval|qcompare|qpanel|qpublish)\s(.*)$"

# Magics whose line has no options of a method.
_OPTIONS = {
    "qeval": EVAL_OPTIONS,
    "qcompare": COMPARE_OPTIONS,
    "qpanel": PANEL_OPTIONS,
    "qpublish": PUBLISH_OPTIONS,
}


def complete(shell: Any, event: Any) -> list[str]:
    """The words that may stand at the cursor; IPython keeps those that begin like what is there.

    Args:
        shell: IPython's, which calls this as a method of it.
        event: IPython's: `text_until_cursor` and `line`.

    Raises:
        TryNext: nothing of ours fits here; IPython goes on with its own, files say.
    """
    match = re.match(COMPLETED, event.text_until_cursor)
    if match is None:
        raise TryNext
    words = match[3].split(" ")
    options = _OPTIONS.get(match[2], JOB_OPTIONS)
    method_options, config = _options(event.line, in_cell=match[2] in _OPTIONS or match[1] == "%%")
    before, _, value = words.pop().rpartition("=")
    option = before or (words[-1] if words else "")
    values = _values(config)
    takes_value = {flag for flag, (metavar, _) in options.items() if metavar} | set(values)
    if option in takes_value:
        found = values.get(option, [])
    elif value.startswith("-") or _model_given(words, takes_value):
        found = [*options, *method_options]
    elif match[2] == "qpublish":
        # A folder, which IPython completes.
        found = []
    else:
        from qtoolkit import local_models

        found = list(local_models())
    if not found:
        raise TryNext
    return found


def _options(line: str, *, in_cell: bool) -> tuple[list[str], type[MethodConfig] | None]:
    """The options of the method that a line chooses, and its config; none where a cell's body has them."""
    if in_cell:
        return [], None
    try:
        config = config_class(method_in(line.split()))
    except QToolkitError:
        return ["--method"], None
    return ["--method", *option_flags(config)], config


def _values(config: type[MethodConfig] | None) -> dict[str, list[str]]:
    """Option -> the values that it may have; an empty list where anything goes."""
    methods = list(available_methods())
    values = {"--method": methods, "--methods": methods, "--device": ["auto", "cpu", "cuda"]}
    values["--base-model-relation"] = list(BASE_MODEL_RELATIONS)
    if config is not None:
        hints = option_hints(config)
        for field in fields(config):
            if field.name in hints and not is_switch(hints[field.name]):
                values[option_flags(config, field.name)[0]] = list(map(str, field.metadata.get("choices") or ()))
    return values


def _model_given(words: list[str], takes_value: set[str]) -> bool:
    """Whether one of the words is neither an option nor an option's value."""
    pairs = zip(["", *words], words, strict=False)
    return any(word and not word.startswith("-") and previous not in takes_value for previous, word in pairs)
