"""Texts that tokenizers split in ways of their own: the same ones each time."""

import random
import unicodedata
from collections.abc import Iterator, Sequence

_SPACES = [
    " ",
    "  ",
    "\t",
    "\n",
    "\r\n",
    "\u00a0",
    "\u2003",
    "\u200b",
    "\u3000",
    "\u2028",
    "\ufeff",
    "\x0b",
    "\x0c",
    "\x85",
]
_EMOJI = [
    "\U0001f468\u200d\U0001f469\u200d\U0001f467",
    "\U0001f3f3\ufe0f\u200d\U0001f308",
    "\U0001f44d\U0001f3fd",
    "\u2764\ufe0f",
    "\U0001f1e9\U0001f1ea",
    "1\ufe0f\u20e3",
]
_CODE = [
    "def f(x):\n\treturn {'a': [x ** 2]}",
    "for(;;){i+=1;}//x",
    "<div class='a'>&nbsp;</div>",
    "SELECT * FROM t WHERE a>=1;",
    "\\frac{1}{2}",
    "a_b-c.d/e",
    "#include <x.h>\r\n",
]
_WORDS = [
    "don't",
    "I'LL",
    "we've",
    "Größe",
    "naïve",
    "мир",
    "你好",
    "こんにちは",
    "한국어",
    "العربية",
    "עברית",
    "हिन्दी",
    "ไทย",
    "e\u0301",
    "ﬁ",
    "ǅ",
    "ß",
    "İ",
    "XMLHttp",
]
_NUMBERS = ["1", "12", "123", "1234", "12345678", "3.14", "1,000", "-5", "٣٤", "Ⅷ", "½", "x²", "0x1F", "1e-5", "१२"]


def odd_strings(special: Sequence[str], count: int = 1000, seed: int = 0) -> Iterator[str]:
    """Yield texts: of each Unicode category, and of pieces in any order, among them a tokenizer's special tokens."""
    generator = random.Random(seed)  # noqa: S311  # the same ones each time
    letters: dict[str, list[str]] = {}
    # No surrogates, which no UTF-8 has, nor NUL, at which a text of C ends.
    for number in [*range(1, 0xD800), *range(0xE000, 0x11000), *range(0x1F000, 0x1FB00), *range(0xE0000, 0xE0100)]:
        letters.setdefault(unicodedata.category(chr(number)), []).append(chr(number))
    yield from ("", " ", "\n", "a" * 500, " " * 100, "\n" * 50, "=" * 200, "1" * 100, "\U0001f600" * 50, "ab " * 100)
    kinds = [_SPACES, _EMOJI, _CODE, _WORDS, _NUMBERS, [*special] or ["<s>"], *letters.values()]
    for _ in range(count - 10):
        pieces = (generator.choice(generator.choice(kinds)) for _ in range(generator.randint(1, 12)))
        yield "".join(pieces)
