"""Match the names of layers with regular expressions that somebody's config brings, in bounded time.

Python's own `re` has no bound: "((a)+)+!" takes years on a name of thirty letters.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import lru_cache

import regex

from qtoolkit.errors import CheckpointError, printable

# Seconds for one name. What people write takes microseconds.
_TIME = 0.5


def matches(pattern: str, name: str) -> bool:
    """Check whether a regular expression matches from the start of a name, as `re.match` does.

    Raises:
        re.error: it is no regular expression of Python's.
        CheckpointError: it takes longer than any that names layers.
    """
    try:
        return _compiled(pattern).match(name, timeout=_TIME) is not None
    except TimeoutError as error:
        raise CheckpointError(
            f"the config names layers by {printable(pattern)[:60]!r}, a regular expression that takes over {_TIME} s "
            f"for {printable(name)[:60]!r}: name the layers in config.json, or take another copy of the model"
        ) from error


@lru_cache(maxsize=1024)
def _compiled(pattern: str) -> "regex.Pattern[str]":
    """Compile what `re`, with which others read a config, compiles too."""
    re.compile(pattern)
    try:
        return regex.compile(pattern)
    except regex.error as error:
        raise re.error(str(error)) from error


class TextIndex:
    """Find which of many patterns can match a name, by the texts that every match contains."""

    def __init__(self, texts: Iterable[Sequence[str]]) -> None:
        """Index patterns.

        Args:
            texts: of each pattern; none where nothing is known of what it matches.
        """
        self._texts = [tuple(one) or ("",) for one in texts]
        # A text that few patterns have leaves the fewest to look at.
        counts = Counter(text for one in self._texts for text in one)
        self._by_text: dict[str, list[int]] = defaultdict(list)
        for index, own in enumerate(self._texts):
            self._by_text[min(own, key=lambda text: (not text, counts[text], -len(text)))].append(index)
        self._lengths = {len(text) for text in self._by_text}

    def candidates(self, name: str) -> list[int]:
        """Return the numbers of the patterns of which all texts are part of a name, in their order."""
        parts = {name[start : start + length] for length in self._lengths for start in range(len(name) - length + 1)}
        found = (index for part in parts & self._by_text.keys() for index in self._by_text[part])
        return sorted(index for index in found if all(text in name for text in self._texts[index]))


class Expressions:
    r"""Many regular expressions, of which a name is compared with those alone whose texts are part of it.

    Example:
        >>> expressions = Expressions(["lm_head$", r".*\.(q|k)_proj", ".*_proj"])
        >>> expressions.first("model.layers.0.self_attn.k_proj"), expressions.first("lm_head.weight")
        (1, None)
    """

    def __init__(self, patterns: Iterable[str]) -> None:
        """Index expressions.

        Args:
            patterns: for `re.match`; those that are none match nothing.
        """
        self._patterns = tuple(patterns)
        self._index = TextIndex(map(texts_of, self._patterns))

    def first(self, name: str) -> int | None:
        """Return the number of the first expression that matches from the start of a name.

        Raises:
            CheckpointError: one takes longer than any that names layers.
        """
        for index in self._index.candidates(name):
            with suppress(re.error):
                if matches(self._patterns[index], name):
                    return index
        return None


# What an expression is made of, as far as it tells which letters a match contains: an escaped sign; a group whose
# content has to match, its end; what may be missing; alternatives; sets, classes, places and repetitions; a letter.
_PART = re.compile(
    r"\\(?P<sign>[^\w\s])|(?P<open>\((?:\?:|\?P<\w+>)?(?!\?))|(?P<close>\))|(?P<maybe>[*?]|\{[^}]*\}?)|(?P<either>\|)"
    r"|(?P<other>\\[^0-9xuUN]|\[\^?\]?(?:\\.|[^\]\\])*\]|[.^$+])|(?P<letter>[^\\(\[])",
    re.DOTALL,
)


class _Group:
    """The texts of what stands within two brackets."""

    def __init__(self) -> None:
        # The last one may grow.
        self.texts = [""]
        self.has_choice = False
        # Where the texts of the last item begin, which is one letter or something else.
        self._last = 0
        self._is_letter = False

    def add_letter(self, letter: str) -> None:
        self.texts[-1] += letter
        self._is_letter = True

    def add_item(self, texts: Sequence[str] = ()) -> None:
        self._last = len(self.texts)
        self.texts += [*texts, ""]
        self._is_letter = False

    def forget_last(self) -> None:
        if self._is_letter:
            self.texts[-1] = self.texts[-1][:-1]
        else:
            del self.texts[self._last :]
        self.add_item()


def texts_of(pattern: str) -> tuple[str, ...]:
    r"""Return texts that every match of a regular expression contains; none where not all of its parts are known.

    >>> texts_of(r"^model\.layers\.[0-3]\.(?:mlp|attn)\.(w1x?)+$"), texts_of("(?i)lm_head")
    (('model.layers.', '.', '.', 'w1'), ())
    """
    groups = [_Group()]
    end = 0
    for part in _PART.finditer(pattern):
        kind = part.lastgroup
        # Something else stands between, or a set of sets, which `regex` reads in another way than `re`.
        if part.start() != end or part[0].startswith("[["):
            return ()
        end = part.end()
        if kind in ("letter", "sign"):
            groups[-1].add_letter(part[kind])
        elif kind == "open":
            groups.append(_Group())
        elif kind == "close" and len(groups) > 1:
            inner = groups.pop()
            groups[-1].add_item(() if inner.has_choice else inner.texts)
        elif kind == "maybe":
            groups[-1].forget_last()
        elif kind == "either":
            groups[-1].has_choice = True
        else:
            groups[-1].add_item()
    is_known = len(groups) == 1 and end == len(pattern) and not groups[0].has_choice
    return tuple(filter(None, groups[0].texts)) if is_known else ()
