"""Many expressions find the layers that they match, compared with `re.match`, one after the other."""

import doctest
import re

import pytest

from qtoolkit import matching
from qtoolkit.matching import Expressions, texts_of

NAMES = (
    "lm_head",
    "model.layers.0.self_attn.q_proj",
    "model.layers.12.mlp.experts.3.down_proj",
    "a[b].c",
    "ab\n",
    "aab{2}",
    "_",
    "",
)
PATTERNS = (
    "lm_head$",
    "LM_HEAD|model",
    "(?i)LM_HEAD",
    r".*\.q_proj",
    r"^(?:.*\.)?(?:q_proj|down_proj)$",
    r"model\.layers\.[0-9]+\.(?P<part>mlp)\.",
    r"model\.layers\.(1?2|3)\.",
    r"model\.layers\.(12x?)*\.",
    r"model\.layers\.(13)?0",
    r"model\.layers\.1{2}",
    r"model\.layers\.1{1,2}2",
    "modelx?",
    "modelx*",
    "model+",
    "modell+?",
    "(mod)+?el",
    "mo(?=del)",
    "mo(?!x)",
    r"\x6c\x6d",
    r"\154m",
    r"\u006cm",
    r"a\[b\]\.c",
    "a[^]x]b",
    "ab$",
    r"\w*_",
    r"a(a)(?P=x)?",
    r"(a)\1b",
    "aab{2}",
    "(lm(_(he)*ad))",
    ".",
    "",
    "(",
    "[a",
    "*",
    "a)b",
    r"aab\{2\}",
)


def by_re(pattern: str, name: str) -> bool:
    try:
        return re.match(pattern, name) is not None
    except re.error:
        return False


@pytest.mark.parametrize("name", NAMES)
def test_the_first_is_the_one_that_re_finds(name: str) -> None:
    """Also where the expressions before it are others."""
    for start in range(len(PATTERNS)):
        expected = next((n for n, p in enumerate(PATTERNS[start:]) if by_re(p, name)), None)
        assert Expressions(PATTERNS[start:]).first(name) == expected


def test_many_are_not_compared_with_each_name(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[str] = []
    monkeypatch.setattr(matching, "matches", lambda pattern, name: compared.append(pattern) or by_re(pattern, name))
    layers = [rf"^.*model\.layers\.{layer}\.(?:mlp|attn)\.[a-z]+_proj$" for layer in range(2000)]
    names = [rf"^model\.layers\.{layer}\.mlp\.up_proj$" for layer in range(2000)]
    found = Expressions([*layers, *names, "lm_head"])
    assert found.first("model.layers.77.mlp.up_proj") == 77
    assert found.first("lm_head") == 4000
    assert compared == [layers[77], "lm_head"]


@pytest.mark.parametrize(
    "pattern",
    ["(?i)a", "a|b", r"\x61", "[[:alpha:]]b", "a(", "(?#a)", "(?(1)a)", "(?=a)", "[a"],
)
def test_nothing_is_known_of_what_is_not_read(pattern: str) -> None:
    assert texts_of(pattern) == ()


def test_the_examples_in_the_docstrings() -> None:
    assert doctest.testmod(matching).failed == 0
