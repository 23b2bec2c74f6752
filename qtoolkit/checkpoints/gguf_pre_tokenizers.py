"""The ways of splitting a text before it is tokenized that a `.gguf` file names, as steps of a `tokenizer.json`.

A file holds a name alone (`tokenizer.ggml.pre`). The pattern for it, and whether a word that is a token is taken whole,
stand in `llama-vocab.cpp` (llama-cpp-python 0.3.36). Where llama.cpp only approximates the pattern of the models that a
name comes from, theirs is taken here, since their merges were learned with it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Splitting:
    """One way of splitting a text.

    Attributes:
        names: llama.cpp's of it, which are one to a tokenizer; the first where nothing tells which.
        steps: of a `tokenizer.json`, one after the other.
        ignore_merges: whether a word that is a token is taken whole, though no merges make it.
    """

    names: tuple[str, ...]
    steps: tuple[Mapping[str, Any], ...]
    ignore_merges: bool = False


def _split(*patterns: str) -> tuple[dict[str, Any], ...]:
    """Return steps that put each match of a pattern apart, and then write bytes as letters."""
    splits = [
        {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
        for pattern in patterns
    ]
    return (*splits, _BYTES)


_BYTES: dict[str, Any] = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}
# By GPT-2's own pattern.
_WORDS: dict[str, Any] = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
_ONE_DIGIT_EACH: dict[str, Any] = {"type": "Digits", "individual_digits": True}

_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORD = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_BLANKS = r"|\s*[\r\n]+|\s+(?!\S)|\s+"
_MARKS = r"| ?[^\s\p{L}\p{N}]+[\r\n]*"
_LLAMA3 = rf"{_CONTRACTIONS}|{_WORD}|\p{{N}}{{1,3}}{_MARKS}{_BLANKS}"
_QWEN2 = rf"{_CONTRACTIONS}|{_WORD}|\p{{N}}{_MARKS}{_BLANKS}"
_UPPER, _LOWER = r"\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}", r"\p{Ll}\p{Lm}\p{Lo}\p{M}"
_MARKS_OF_GPT4O = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*"


def _cased(after: str, digits: str, marks: str, excluded: str = "") -> str:
    """Return the pattern of GPT-4o, by which a capital begins a word.

    Args:
        after: what may end a word.
        digits: of a number.
        marks: the pattern of other characters.
        excluded: letters of which a word has none.
    """
    before = r"[^\r\n\p{L}\p{N}]?"
    upper, lower = f"[{_UPPER}{excluded}]", f"[{_LOWER}{excluded}]"
    return f"{before}{upper}*{lower}+{after}|{before}{upper}+{lower}*{after}|{digits}{marks}{_BLANKS}"


_GPT4O = _cased(f"{_CONTRACTIONS}?", r"\p{N}{1,3}", _MARKS_OF_GPT4O)
_ASIAN = "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"
_ASCII_MARK = r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"""
_DEEPSEEK_WORD = rf"{_ASCII_MARK}|[^\r\n\p{{L}}\p{{P}}\p{{S}}]?[\p{{L}}\p{{M}}]+| ?[\p{{P}}\p{{S}}]+"
_DEEPSEEK3 = rf"{_DEEPSEEK_WORD}[\r\n]*{_BLANKS}"
_DEEPSEEK_ASIAN = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"
_DEEPSEEK_LETTERS = (
    "\u00b5\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u01ba\u01bc-\u01bf\u01c4-\u0293\u0295-\u02af\u0370-\u0373\u0376"
    "\u0377\u037b-\u037d\u037f\u0386\u0388-\u038a\u038c\u038e-\u03a1\u03a3-\u03f5\u03f7-\u0481\u048a-\u052f"
    "\u0531-\u0556\u10a0-\u10c5\u13a0-\u13f5\u13f8-\u13fd\u1c90-\u1cba\u1cbd-\u1cbf\u1d00-\u1d2b\u1d6b-\u1d77"
    "\u1d79-\u1d9a\u1e00-\u1f15\u1f18-\u1f1d\u1f20-\u1f45\u1f48-\u1f4d\u1f50-\u1f57\u1f59\u1f5b\u1f5d"
    "\u1f5f-\u1f7d\u1f80-\u1fb4\u1fb6-\u1fbc\u1fbe\u1fc2-\u1fc4\u1fc6-\u1fcc\u1fd0-\u1fd3\u1fd6-\u1fdb"
    "\u1fe0-\u1fec\u1ff2-\u1ff4\u1ff6-\u1ffc\u2102\u2107\u210a-\u2113\u2115\u2119-\u211d\u2124\u2126\u2128"
    "\u212a-\u212d\u212f-\u2134\u2139\u213c-\u213f\u2145-\u2149\u214e\u2183\u2184\u2c00-\u2c7b\u2c7e-\u2ce4"
    "\u2ceb-\u2cee\u2cf2\u2cf3\ua640-\ua66d\ua680-\ua69b\ua722-\ua76f\ua771-\ua787\ua78b-\ua78e\uab70-\uabbf"
    "\ufb00-\ufb06\ufb13-\ufb17\uff21-\uff3a\uff41-\uff5a\U00010400-\U0001044f\U000104b0-\U000104d3"
    "\U000104d8-\U000104fb\U00010c80-\U00010cb2\U00010cc0-\U00010cf2\U000118a0-\U000118df\U0001e900-\U0001e943"
)
_DEEPSEEK_MARKS = r"\s?[!-/:-~" + "\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]+"
_BLOOM = r" ?[^(\s|.,!?" + "\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c)]+"
_YOUTU = (
    "[\uac00-\ud7a3\u3131-\u318e]+|[\uff01\u2026\u201c\u201d\u2018\u2019\u2014\uff1a\uff1b\uff0c\u3001-\u303f\ufe30-\ufe4f]+"
    "|[\u3105-\u312f]+|[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"
)
_AFMOE_ASIAN = (
    "\u4e00-\u9fff\u3400-\u4dbf\u8c48-\ufaff\u3040-\u309f\u30a0-\u30ff\uff65-\uff9f\u2f00-\u2fdf\u0e40-\u0e7f"
    "\u0e80-\u0eff\u1780-\u17ff\u1000-\u109f\uaa60-\uaa7f\ua9e0-\ua9ff\uac00-\ud7af\u1100-\u11ff"
)
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_THREE_DIGITS = "[0-9][0-9][0-9]"
_CHAMELEON = (
    *_split("<sentinel:[0-9]+>", "(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z", "([\\t\\n]|    |  )")[:-1],
    _ONE_DIGIT_EACH,
    {"type": "Punctuation", "behavior": "Isolated"},
    _WORDS,
)
_HUNDREDS = "".join(rf"|\s{{{2**power}}}(?!\S)" for power in range(9, 1, -1))
_JAIS2 = rf"{_CONTRACTIONS}|{_WORD}|\p{{N}}{{1,3}}{_MARKS}|\s*[\r\n]+{_HUNDREDS}|\s{{1,2}}(?!\S)|\s{{1}}"

_PLAIN = ("gpt-2", "mpt", "olmo", "jais", "trillion", "granite-docling", "phi-2", "gigachat", "a.x-4.0", "modern-bert")
_JINA = ("jina-es", "jina-de", "jina-v2-es", "jina-v2-de", "jina-v1-en", "jina-v2-code", "roberta-bpe")
_DIGITS = ("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b", "mellum2")
_LLAMA3_NAMES = (
    "llama-bpe",
    "pixtral",
    "midm-2.0",
    "jina-v5-nano",
    "llama3",
    "llama-v3",
    "falcon3",
    "falcon-h1",
    "lfm2",
)
_QWEN2_NAMES = (
    "qwen2",
    "stablelm2",
    "deepseek-r1-qwen",
    "kormo",
    "f2llmv2",
    "megrez",
    "hunyuan",
    "solar-open",
    "grok-2",
)

SPLITTINGS = (
    Splitting((*_PLAIN, "mellum", "exaone4", *_JINA), (_WORDS,)),
    Splitting(_DIGITS, (_ONE_DIGIT_EACH, _WORDS)),
    Splitting((*_LLAMA3_NAMES, "glm4", "glm5"), _split(_LLAMA3), ignore_merges=True),
    Splitting(("dbrx", "smaug-bpe", "chatglm-bpe"), _split(_LLAMA3)),
    Splitting(_QWEN2_NAMES, _split(_QWEN2)),
    Splitting(
        ("qwen35",),
        _split(
            rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}"
            rf"| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*{_BLANKS}"
        ),
    ),
    Splitting(("falcon",), _split(r"[\p{P}\$\+<=>\^~\|`]+", _GPT2, _THREE_DIGITS)),
    Splitting(("tekken",), _split(_cased("", r"\p{N}", _MARKS_OF_GPT4O)), ignore_merges=True),
    Splitting(("gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"), _split(_GPT4O)),
    Splitting(("granite-embed-multi-97m",), _split(_GPT4O), ignore_merges=True),
    Splitting(("tiny_aya", "cohere2moe"), _split(r"\d{1,3}(?=(?:\d{3})*\b)", _GPT4O)),
    Splitting(("youtu",), _split(_YOUTU, _cased(f"{_CONTRACTIONS}?", r"\p{N}", _MARKS_OF_GPT4O)), ignore_merges=True),
    Splitting(
        ("kimi-k2",),
        _split(r"[\p{Han}]+|" + _cased(f"{_CONTRACTIONS}?", r"\p{N}{1,3}", _MARKS, excluded=r"&&[^\p{Han}]")),
    ),
    Splitting(
        ("deepseek-llm",),
        _split("[\r\n]", rf"\s?[A-Za-z{_DEEPSEEK_LETTERS}]+", _DEEPSEEK_MARKS, r"\s+$", _DEEPSEEK_ASIAN, r"\p{N}+"),
    ),
    Splitting(
        ("deepseek-coder",),
        (*_split("[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _DEEPSEEK_ASIAN)[:-1], _ONE_DIGIT_EACH, _BYTES),
    ),
    Splitting(("deepseek-v3", "hunyuan-dense", "joyai-llm", "hy_v4"), _split(r"\p{N}{1,3}", _ASIAN, _DEEPSEEK3)),
    Splitting(("spark2_5",), _split(r"\p{N}{1,3}", _ASIAN, rf"{_DEEPSEEK_WORD}|[\r\n]|\s+(?!\S)|\s+", r"\p{N}")),
    Splitting(("afmoe",), _split(r"\p{N}{1,3}(?=(?:\p{N}{3})*(?!\p{N}))", f"[{_AFMOE_ASIAN}]+", _DEEPSEEK3)),
    Splitting(
        ("minicpm5",), _split(r"\p{N}{1,3}", rf"{_CONTRACTIONS}|{_WORD}|\p{{N}}+{_MARKS}{_BLANKS}"), ignore_merges=True
    ),
    Splitting(("jais-2",), _split(_JAIS2)),
    Splitting(("laguna",), _split(r"[^\n]+|[\n]+", _QWEN2)),
    Splitting(("ufakzeka",), _split(rf"{_WORD}|\p{{N}}{_MARKS}{_BLANKS}")),
    Splitting(
        ("exaone-moe",),
        _split(
            rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?(?:\p{{L}}\p{{M}}*(?: \p{{L}}\p{{M}}*)*)+|\p{{N}}"
            r"| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+"
        ),
    ),
    Splitting(
        ("bailingmoe", "bailingmoe2", "llada-moe"),
        _split(
            r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
        ),
    ),
    Splitting(("seed-coder",), _split(rf"{_CONTRACTIONS}|{_WORD}|\p{{N}}{{1}}| ?[^\s\p{{L}}\p{{N}}\r\n]+{_BLANKS}")),
    Splitting(("superbpe",), _split(r"\p{N}+", r"(?=(\d{3})+(?!\d))")),
    Splitting(("poro-chat", "bloom", "gpt3-finnish"), _split(_BLOOM)),
    Splitting(("viking",), _split(_BLOOM, r"\p{N}")),
    Splitting(("chameleon",), _CHAMELEON),
    # Of files from before pre-tokenizers had names.
    Splitting(("default",), _split(r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", _THREE_DIGITS)),
)
# Those with which llama.cpp puts the begin token before each text where a file does not say (`add_bos`).
BEGIN_BY_DEFAULT = frozenset([*_LLAMA3_NAMES, "tekken", "chameleon"])
_BY_NAME = {name: splitting for splitting in SPLITTINGS for name in splitting.names}


def splitting_named(name: str) -> Splitting | None:
    """Return the way of splitting that llama.cpp calls so; None where it is not known here."""
    return _BY_NAME.get(name)


def names_of_splitting(described: Mapping[str, Any]) -> tuple[str, ...]:
    """Return llama.cpp's names of the way in which a tokenizer splits a text, which are one to it; none if unknown.

    Args:
        described: its `tokenizer.json`.
    """
    pre = described.get("pre_tokenizer") or {}
    # Offsets are no tokens.
    steps = tuple(
        {key: value for key, value in step.items() if key != "trim_offsets"} for step in pre.get("pretokenizers", [pre])
    )
    whole = bool(described["model"].get("ignore_merges"))
    return next((way.names for way in SPLITTINGS if way.steps == steps and way.ignore_merges == whole), ())
