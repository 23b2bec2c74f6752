"""Patterns of modules' names, as `exclude`, `include` and `rules` have them: found by what a name contains."""

import re
from collections.abc import Iterable
from fnmatch import translate
from functools import lru_cache

from qtoolkit.matching import TextIndex

# A set of one sign, which stands for that; what stands for other letters in an fnmatch pattern: a set, of which the
# first letter may be "]", or one sign.
_WILD = re.compile(r"\[([^!])\]|\[!?.[^\]]*\]|[*?]", re.DOTALL)


class NamePatterns:
    """Many fnmatch patterns, of which a name is compared with those alone whose texts are part of it.

    A pattern matches a module's full name, or the end of it after a dot.

    Example:
        >>> patterns = NamePatterns(["lm_head", "*.o_proj", "*.[0-3].*"])
        >>> patterns.matching("model.layers.2.self_attn.o_proj")
        ['*.o_proj', '*.[0-3].*']
    """

    def __init__(self, patterns: Iterable[str]) -> None:
        """Index patterns.

        Args:
            patterns: in the order in which `matching` gives them.
        """
        self._patterns = tuple(patterns)
        self._index = TextIndex(map(_texts_of, self._patterns))

    def matching(self, name: str) -> list[str]:
        """Return the patterns that match a module's name, in their order."""
        return [pattern for pattern in self._candidates(name) if _compiled(pattern).match(name)]

    def match(self, name: str) -> bool:
        """Check whether any pattern matches a module's name."""
        return any(_compiled(pattern).match(name) for pattern in self._candidates(name))

    def _candidates(self, name: str) -> list[str]:
        return [self._patterns[index] for index in self._index.candidates(name)]


def _texts_of(pattern: str) -> list[str]:
    """Return what each match of an fnmatch pattern contains.

    >>> _texts_of("layers.[0-3].[[]a*")
    ['layers.', '.[a']
    """
    texts = [""]
    end = 0
    for wild in _WILD.finditer(pattern):
        texts[-1] += pattern[end : wild.start()] + (wild[1] or "")
        texts += [] if wild[1] else [""]
        end = wild.end()
    texts[-1] += pattern[end:]
    return [text for text in texts if text]


@lru_cache(maxsize=1 << 16)
def _compiled(pattern: str) -> re.Pattern[str]:
    """Return what matches a whole name, or the end of it after a dot."""
    return re.compile(rf"(?s:.*\.)?{translate(pattern)}")
