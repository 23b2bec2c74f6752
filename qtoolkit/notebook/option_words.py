"""Find what a message calls options in Python, `seq_len=64`, and call it otherwise; calls in Python stay."""

import re
from collections.abc import Callable, Iterable

# A call is Python, and stays: "GPTQ(format='compressed-tensors') quantizes them".
_CALL = re.compile(r"(\b[\w.]+\((?:[^()]|\([^()]*\))*\))")
# Neither a line nor a panel has a token.
_TOKEN = re.compile(r",? or (?:give )?token=(?=$|[\s,.;:])")
_VALUE = r"""('[^']*'|"[^"]*"|[\w.\-]+)?"""


def with_other_words(
    message: str, names: Iterable[str], *, given: Callable[[str, str], str], bare: Callable[[str], str]
) -> str:
    """Return a message with other words for options and their values.

    Args:
        message: of an error that a verb or a method raised.
        names: the options, by their names in Python.
        given: takes a name and its value as Python writes it, which may be missing ("give one as base="); returns what
            stands in place of both.
        bare: the same for a name alone, which may be meant as a word: "leave lossy out".
    """
    message = _TOKEN.sub("", message)
    either = "|".join(sorted(map(re.escape, names), key=len, reverse=True))
    if not either:
        return message
    with_value = re.compile(rf"(?<![\w./'\"-])({either})={_VALUE}")
    alone = re.compile(rf"(?<![\w./'\"-])({either})(?![\w./'\"(=])")
    parts = _CALL.split(message)
    for place in range(0, len(parts), 2):
        part = with_value.sub(lambda found: given(found[1], found[2] or ""), parts[place])
        parts[place] = alone.sub(lambda found: bare(found[1]), part)
    return "".join(parts)


def plain(value: str) -> str:
    """Return a value that Python writes in quotes without them, where it is one word.

    >>> plain("'mlx'"), plain("'in order'"), plain("64")
    ('mlx', "'in order'", '64')
    """
    text = value.strip("'\"")
    return text if text and " " not in text else value
