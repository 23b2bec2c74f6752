"""Patterns of modules' names, as `exclude`, `include` and `rules` have them: found by what a name contains."""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from fnmatch import translate
from functools import lru_cache

# What stands for other letters in an fnmatch pattern: a set, of which the first letter may be "]", or one sign.
_WILD = re.compile(r"\[!?.[^\]]*\]|[*?]", re.DOTALL)


class NamePatterns:
    """Many fnmatch patterns, of which a name is compared with those alone whose longest text is part of it.

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
        self._by_text: dict[str, list[tuple[int, str, list[str]]]] = defaultdict(list)
        for index, pattern in enumerate(patterns):
            texts = _WILD.split(pattern)
            self._by_text[max(texts, key=len)].append((index, pattern, texts))
        self._lengths = {len(text) for text in self._by_text}

    def matching(self, name: str) -> list[str]:
        """Return the patterns that match a module's name, in their order."""
        return [pattern for _, pattern in sorted(self._found(name))]

    def match(self, name: str) -> bool:
        """Check whether any pattern matches a module's name."""
        return next(self._found(name), None) is not None

    def _found(self, name: str) -> Iterator[tuple[int, str]]:
        parts = {name[start : start + length] for length in self._lengths for start in range(len(name) - length + 1)}
        for part in parts & self._by_text.keys():
            for index, pattern, texts in self._by_text[part]:
                if all(text in name for text in texts) and _compiled(pattern).match(name):
                    yield index, pattern


@lru_cache(maxsize=1 << 16)
def _compiled(pattern: str) -> re.Pattern[str]:
    """Return what matches a whole name, or the end of it after a dot."""
    return re.compile(rf"(?s:.*\.)?{translate(pattern)}")
