"""Patterns of names are found by what a name contains; compared with fnmatch, one pattern after the other."""

import re
from fnmatch import fnmatchcase, translate

import pytest

from qtoolkit import AbsMax
from qtoolkit.methods import module_patterns
from qtoolkit.methods.module_patterns import NamePatterns

NAMES = (
    "lm_head",
    "model.layers.0.self_attn.o_proj",
    "model.layers.12.mlp.experts.3.down_proj",
    "model.layers.2.mlp.experts.down_proj",
    "visual.blocks.1.attn.qkv",
    "a[b].c",
    "o_proj",
    "",
)
PATTERNS = (
    "lm_head",
    "head",
    "o_proj",
    "self_attn.o_proj",
    "*.o_proj",
    "*o_proj",
    "o_proj*",
    "model.layers.?.*",
    "model.layers.[!0-4]*.down_proj",
    "*experts.[0-3].*",
    "*[]b]*",
    "a[[]b].c",
    "a[b].c",
    "a[b",
    "[!]*",
    "[!]a]_proj",
    "[o]_pro[j]",
    "[]",
    "*",
    "",
    "?*",
    "*visual*qkv",
    "experts.3.down_proj",
    "LM_HEAD",
    "layers.(0|1)",
)


@pytest.mark.parametrize("name", NAMES)
def test_a_name_has_the_patterns_that_fnmatch_finds_for_it_or_for_its_end_after_a_dot(name: str) -> None:
    expected = [p for p in PATTERNS if fnmatchcase(name, p) or fnmatchcase(name, f"*.{p}")]
    found = NamePatterns(PATTERNS)
    assert found.matching(name) == expected
    assert found.match(name) is bool(expected)


def test_many_patterns_are_not_compared_with_each_name(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[str] = []

    def noting(pattern: str) -> re.Pattern[str]:
        compared.append(pattern)
        return re.compile(translate(pattern))

    monkeypatch.setattr(module_patterns, "_compiled", noting)
    config = AbsMax(rules={f"model.layers.{layer}.*_proj": {"bits": 8} for layer in range(2000)})
    assert config.of("model.layers.77.mlp.up_proj").bits == 8
    assert compared == ["model.layers.77.*_proj"]


def test_each_set_of_options_of_many_rules_is_tried_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[object] = []
    real = AbsMax.__post_init__
    monkeypatch.setattr(AbsMax, "__post_init__", lambda self: (made.append(self), real(self)))
    AbsMax(rules={f"model.layers.{layer}.mlp.up_proj": {"bits": 4 + 4 * (layer % 2)} for layer in range(200)})
    assert len(made) == 3
