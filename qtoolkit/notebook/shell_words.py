"""Split the line of a magic into words, as a shell does."""

import os
import shlex

from qtoolkit.errors import ConfigError


def split_line(line: str) -> list[str]:
    """Split a line into words, and take their quotes off; backslashes of Windows paths stay."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=False)
    lexer.whitespace_split = True
    lexer.commenters = ""
    if os.name == "nt":
        lexer.escape = ""
    try:
        return list(lexer)
    except ValueError as error:
        message = f"{str(error).lower()} in {line!r}: put quotes around a path that has blanks or quotes in it"
        raise ConfigError(message) from error
