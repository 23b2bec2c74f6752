"""The tokenizer in the header of a `.gguf` file cuts texts as llama.cpp does.

`tests/data/llama_cpp/splits.json` holds the pieces that its code makes of odd texts. Of SentencePiece, its loop stands
here once more, which puts one pair of pieces together after the other.
"""

import json
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from qtoolkit.checkpoints.gguf_pre_tokenizers import BEGIN_BY_DEFAULT, SPLITTINGS, Splitting
from qtoolkit.checkpoints.gguf_writing import Value, write_gguf
from qtoolkit.errors import SourceError
from qtoolkit.formats.gguf.vocabulary import vocabulary_of
from qtoolkit.models.gguf_tokenizer import backend_of_header
from qtoolkit.models.tokenizer import load_gguf_tokenizer
from qtoolkit.noted import Noted
from tests.data.llama_cpp.split_texts import STORED, TEXTS
from tests.formats.gguf.test_vocabulary import SPLITS, byte_level, sentencepiece

FOUND = json.loads(STORED.read_text(encoding="utf-8"))
# Texts whose pieces are others by the pattern of the original tokenizer, which llama.cpp's engine of patterns has not:
# marks that belong to a letter, capitals within a word and those beyond A to Z, Chinese blanks; and empty pieces. Where
# it cuts numbers in threes by code of its own, what stands before a number is still in one piece with it.
APPROXIMATED = {
    "TEKKEN": {5, 7, 11},
    "GPT4O": {5, 7, 11},
    "GRANITE_EMB_MULTI": {11},
    "MINIMAX_M2": {5, 7, 11},
    "KIMI_K2": {3, 5, 7, 11},
    "TINY_AYA": {3, 11, 12},
    "AFMOE": {12},
    "YOUTU": {3, 11},
    "DEEPSEEK_LLM": {7},
    "DEEPSEEK_CODER": {7},
    "SUPERBPE": {0, 8},
}
KEY = "tokenizer.ggml."


@pytest.fixture(scope="module")
def plain() -> dict[str, Value]:
    """The header of a small vocabulary that merges bytes, without a word on its begin and end."""
    values = vocabulary_of(byte_level(SPLITS["gpt-2"]), 330)
    del values[f"{KEY}add_bos_token"], values[f"{KEY}add_eos_token"]
    return {"general.architecture": Value("string", "llama"), **values}


def read(folder: Path, values: Mapping[str, Value], **changed: Value | None) -> Noted[Any]:
    """Read the tokenizer of a file with these values, some of `tokenizer.ggml` changed; None removes one."""
    stored = {**values, **{KEY + key: value for key, value in changed.items()}}
    kept = {key: value for key, value in stored.items() if value is not None}
    list(write_gguf(folder / "a.gguf", kept, (), lambda entry: None))
    return load_gguf_tokenizer(folder / "a.gguf")


@pytest.mark.parametrize("splitting", SPLITTINGS, ids=lambda splitting: splitting.names[0])
def test_each_way_of_splitting_is_llama_cpps(splitting: Splitting, plain: dict[str, Value], tmp_path: Path) -> None:
    """By each of its names; it is written again by the first."""
    name = Value("string", splitting.names[-1])
    tokenizer = read(tmp_path, plain, pre=name).value
    split = tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str
    pieces = [" ".join(piece for piece, _ in split(text)) for text in TEXTS]
    for known in (FOUND["names"][name] for name in splitting.names):
        pairs = zip(pieces, FOUND["pieces"][known["way"]], strict=True)
        others = {at for at, (ours, theirs) in enumerate(pairs) if ours != theirs}
        assert others == APPROXIMATED.get(known["way"], set())
        assert tokenizer.backend_tokenizer.model.ignore_merges == known["ignore_merges"]
    assert vocabulary_of(tokenizer, 330)[f"{KEY}pre"].content == splitting.names[0]


def test_names_of_bpe_are_known_as_llama_cpp_knows_them() -> None:
    assert {name for splitting in SPLITTINGS for name in splitting.names} == FOUND["names"].keys()
    assert {name for name, known in FOUND["names"].items() if known["add_bos"]} == BEGIN_BY_DEFAULT


def test_a_way_of_splitting_that_is_not_known_is_told(plain: dict[str, Value], tmp_path: Path) -> None:
    found = read(tmp_path, plain, pre=Value("string", "later-bpe"))
    (note,) = found.notes
    assert note == (
        "a.gguf splits texts as 'later-bpe', which is not known here: they are split as GPT-2 does, and token ids may "
        "differ from the original's: give its tokenizer as tokenizer="
    )
    named = read(tmp_path, plain)
    assert found.value("I'm 1984  x")["input_ids"] == named.value("I'm 1984  x")["input_ids"]
    assert named.notes == ()


@pytest.mark.parametrize("pre", [None, Value("string", "default")], ids=["missing", "default"])
def test_a_file_from_before_ways_had_names_is_told(pre: Value | None, plain: dict[str, Value], tmp_path: Path) -> None:
    """It is split as llama.cpp does then."""
    found = read(tmp_path, plain, pre=pre)
    assert "does not say how texts are split: they are split as llama.cpp does then" in found.notes[0]
    split = found.value.backend_tokenizer.pre_tokenizer.pre_tokenize_str
    assert [" ".join(piece for piece, _ in split(text)) for text in TEXTS] == FOUND["pieces"]["DEFAULT"]


def test_tokens_and_merges_are_those_of_the_header(plain: dict[str, Value], tmp_path: Path) -> None:
    """Special ones, those of the user with blanks in them, and none of GPT-2's; those that fill up are left out."""
    tokens, types = ([*plain[KEY + key].content[:-10]] for key in ("tokens", "token_type"))
    count = len(tokens) + 3
    tokens += ["<|im_end|>", "two  words", f"[PAD{count - 1}]"]
    changed = {
        "tokens": Value("string", tuple(tokens)),
        "token_type": Value("int32", (*types, 3, 4, 5)),
        "eos_token_id": Value("uint32", count - 3),
        "padding_token_id": Value("uint32", count),
    }
    tokenizer = read(tmp_path, plain, **changed).value
    assert tokenizer.encode("two  words<|im_end|>", add_special_tokens=False) == [count - 2, count - 3]
    assert tokenizer.decode([count - 2, count - 3], skip_special_tokens=True) == "two  words"
    assert tokenizer.special_tokens_map == {"bos_token": "<s>", "eos_token": "<|im_end|>"}
    assert len(tokenizer) == count - 1
    written = vocabulary_of(tokenizer, count)
    for key in ("model", "pre", "tokens", "token_type", "merges", "bos_token_id", "eos_token_id"):
        assert written[KEY + key] == (plain | {KEY + key: value for key, value in changed.items()})[KEY + key], key


@pytest.mark.parametrize(
    ("pre", "told", "around"),
    [
        ("gpt-2", {}, (False, False)),
        ("llama-bpe", {}, (True, False)),
        ("llama-bpe", {"add_bos_token": False, "add_eos_token": True}, (False, True)),
        ("gpt-2", {"add_bos_token": True, "add_eos_token": True}, (True, True)),
    ],
    ids=["GPT-2's default", "Llama 3's default", "end alone", "both"],
)
def test_tokens_around_a_text_are_those_of_the_header(
    pre: str, told: dict[str, bool], around: tuple[bool, bool], plain: dict[str, Value], tmp_path: Path
) -> None:
    """Where it does not say, llama.cpp's for this way of splitting."""
    values = {key: Value("bool", flag) for key, flag in told.items()}
    tokenizer = read(tmp_path, plain, pre=Value("string", pre), eos_token_id=Value("uint32", 6), **values).value
    before, after = ([0] * around[0], [6] * around[1])
    inner = tokenizer.encode("a b", add_special_tokens=False)
    assert tokenizer.encode("a b") == [*before, *inner, *after]
    assert tokenizer("a b", "a b")["input_ids"] == 2 * [*before, *inner, *after]


@pytest.mark.parametrize(("name", "dropped"), [("Phi-3-mini", True), ("my-phi3", True), ("phi-2", False)])
def test_blanks_after_tokens_of_phi3_are_dropped(
    name: str, dropped: bool, plain: dict[str, Value], tmp_path: Path
) -> None:
    """As llama.cpp does by the model's name alone, but for its begin token and two others."""
    types = list(plain[f"{KEY}token_type"].content)
    types[300] = 3
    values = {**plain, "general.name": Value("string", name)}
    tokenizer = read(tmp_path, values, token_type=Value("int32", tuple(types))).value
    token, word, blank = tokenizer.convert_ids_to_tokens(300), *(tokenizer.encode(text) for text in ("x", " x"))
    assert tokenizer.encode(f"{token} x") == [300, *(word if dropped else blank)]
    assert tokenizer.encode("<s> x") == [0, *blank]


def test_a_long_template_is_read(plain: dict[str, Value], tmp_path: Path) -> None:
    template = "{{ messages }}" * 200
    assert (
        read(tmp_path, {**plain, "tokenizer.chat_template": Value("string", template)}).value.chat_template == template
    )


def test_templates_of_several_uses_are_read(plain: dict[str, Value], tmp_path: Path) -> None:
    """However long; names without a template are left out."""
    texts = {"default": "{{ messages }}", "tool_use": "{{ tools }}" * 200}
    stored = {
        "tokenizer.chat_template": Value("string", texts["default"]),
        "tokenizer.chat_templates": Value("string", ("tool_use", "lost")),
        "tokenizer.chat_template.tool_use": Value("string", texts["tool_use"]),
    }
    assert read(tmp_path, {**plain, **stored}).value.chat_template == texts


def test_merges_of_tokens_that_are_not_there_are_refused(plain: dict[str, Value], tmp_path: Path) -> None:
    merges = Value("string", (*plain[f"{KEY}merges"].content, "a unheardof"))
    with pytest.raises(SourceError, match=r"the tokenizer in .*a\.gguf cannot be read \(.*unheardof.*: give one as"):
        read(tmp_path, plain, merges=merges)


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("merges", None, "it has no tokenizer.ggml.merges"),
        ("token_type", Value("int32", (1, 1)), "it has 321 tokens, and 2 values in tokenizer.ggml.token_type"),
        ("bos_token_id", Value("uint32", 321), "tokenizer.ggml.bos_token_id is 321, and it has 321 tokens"),
        ("eos_token_id", Value("uint32", 99999), "tokenizer.ggml.eos_token_id is 99999, and it has 321 tokens"),
    ],
)
def test_a_header_that_describes_no_tokenizer_is_refused_in_one_line(
    key: str, value: Value | None, told: str, plain: dict[str, Value], tmp_path: Path
) -> None:
    tokens = Value(
        "string",
        tuple(
            f"<{number}>" if number > 319 else text for number, text in enumerate(plain[f"{KEY}tokens"].content[:321])
        ),
    )
    types = Value("int32", plain[f"{KEY}token_type"].content[:321])
    with pytest.raises(SourceError, match=rf"a\.gguf cannot be read \({told}\): give one as"):
        read(tmp_path, plain, **({"tokens": tokens, "token_type": types} | {key: value}))


def test_scores_that_are_missing_are_named(tmp_path: Path) -> None:
    values = vocabulary_of(sentencepiece(), 300) | {"general.architecture": Value("string", "llama")}
    with pytest.raises(SourceError, match=r"cannot be read \(it has no tokenizer\.ggml\.scores\): give one as"):
        read(tmp_path, values, scores=None)


def test_more_tokens_than_the_embedding_has_rows_are_refused(plain: dict[str, Value]) -> None:
    values = {key: value.content for key, value in plain.items()}
    count = len(values[f"{KEY}tokens"]) - values[f"{KEY}token_type"].count(5)
    assert backend_of_header(values, "a.gguf", rows=count).notes == ()
    with pytest.raises(ValueError, match=f"it has {count} tokens, and the embedding {count - 1} rows"):
        backend_of_header(values, "a.gguf", rows=count - 1)


def test_smollm2_is_split_as_its_tokenizer_json_says(smollm2: Path) -> None:
    """That of HuggingFaceTB/SmolLM2-135M-Instruct: each digit is a token, and the rest is split as GPT-2 does."""
    described = json.loads((smollm2 / "tokenizer.json").read_text(encoding="utf-8"))
    assert described["pre_tokenizer"] == {
        "type": "Sequence",
        "pretokenizers": [
            {"type": "Digits", "individual_digits": True},
            {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        ],
    }
    assert described["normalizer"] is None


@pytest.mark.parametrize("prefix", [True, False], ids=["with a space before", "without"])
def test_sentencepiece_merges_by_scores(prefix: bool, tmp_path: Path) -> None:
    """As llama.cpp does, between the tokens that it looks for first, each time with a space before or without.

    Where nothing is said of it, a text gets its begin token.
    """
    merges = [("a", "b"), ("c", "c"), ("ab", "c"), ("\u2581", "ab"), ("b", "cc"), ("\u2581", "\u2581")]
    source = sentencepiece(merges, more=("cc", "\u2581ab", "bcc", "\u2581\u2581"))
    source.add_tokens(["[INST]", "   "])
    values = vocabulary_of(source, 300) | {
        "general.architecture": Value("string", "llama"),
        f"{KEY}add_space_prefix": Value("bool", prefix),
    }
    tokenizer = read(tmp_path, values, add_bos_token=None).value
    scores = dict(zip(values[f"{KEY}tokens"].content, values[f"{KEY}scores"].content, strict=True))
    for parts in (["abcc ab  cab"], [" ab", "[INST]", "  abc", "   ", "bcc ab", "<s>", "b"], ["aabbé\n"]):
        expected = ["<s>"]
        for part in parts:
            added = part in {"[INST]", "   ", "<s>"}
            expected += [part] if added else merged((" " if prefix else "") + part, scores)
        assert tokenizer.convert_ids_to_tokens(tokenizer.encode("".join(parts))) == expected
    ids = tokenizer.encode("ab  cé", add_special_tokens=False)
    assert tokenizer.decode(ids) == "ab  cé"
    written = vocabulary_of(tokenizer, 300)
    for key in ("model", "tokens", "token_type", "add_space_prefix", "bos_token_id", "unknown_token_id"):
        assert written[KEY + key] == values[KEY + key], key


def merged(text: str, scores: dict[str, float]) -> list[str]:
    """The pieces of a text: of all neighbours that make a token, those with the highest score first, the left ones."""
    pieces = list(text.replace(" ", "\u2581"))
    while True:
        pairs = [left + right for left, right in pairwise(pieces)]
        known = [(-scores[pair], at) for at, pair in enumerate(pairs) if pair in scores]
        if not known:
            break
        at = min(known)[1]
        pieces[at : at + 2] = [pairs[at]]
    bytes_of = {piece: [f"<0x{byte:02X}>" for byte in piece.encode()] for piece in pieces}
    return [token for piece in pieces for token in ([piece] if piece in scores else bytes_of[piece])]
