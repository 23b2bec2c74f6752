"""Tokens that llama.cpp would make otherwise than the tokenizer are told where something explains it, or refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import qtoolkit as qt
from qtoolkit.checkpoints.gguf_writing import Value, write_gguf
from qtoolkit.errors import UnsupportedModelError
from qtoolkit.formats.gguf.token_check import compare_tokens, notes_on_tokens
from qtoolkit.formats.gguf.vocabulary import vocabulary_of
from qtoolkit.publishing.artifact import open_artifact
from qtoolkit.publishing.behaviour import describe_tokenizer
from qtoolkit.publishing.behaviour_checks import check_behaviour
from tests.formats.gguf.small_models import small_model
from tests.formats.gguf.test_file_plan import planned, sample
from tests.formats.gguf.test_vocabulary import SPLITS, byte_level, notes_on, sentencepiece


@pytest.mark.parametrize("split", SPLITS)
def test_the_same_tokens_are_not_spoken_of(split: str) -> None:
    assert notes_on(byte_level(SPLITS[split]), "model") == ()


def test_other_tokens_that_nothing_explains_are_refused() -> None:
    """A header that lacks merges."""
    tokenizer = byte_level(SPLITS["gpt-2"])
    values = contents(tokenizer)
    values["tokenizer.ggml.merges"] = values["tokenizer.ggml.merges"][:3]
    with pytest.raises(
        UnsupportedModelError, match=r"make other tokens of \d+ of \d+ odd texts, such as .*: give anoth"
    ):
        notes_on_tokens(tokenizer, values)


def test_other_tokens_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    """In the plan."""
    tokenizer = sentencepiece([("a", "b"), ("ab", "c"), ("\u2581", "abc")], more=("\u2581\u2581",))
    tokenizer.save_pretrained(tmp_path / "model")
    small_model("llama", vocab_size=400).save_pretrained(tmp_path / "model")
    with pytest.raises(UnsupportedModelError, match="make other tokens"):
        qt.plan(tmp_path / "model", qt.GGUF("Q8_0"))


def test_bytes_as_letters_are_no_sentencepiece() -> None:
    """Though the tokenizer says `byte_fallback`, which does nothing there."""
    tokenizer = edited(byte_level(SPLITS["gpt-2"]), lambda described: described["model"].update(byte_fallback=True))
    assert contents(tokenizer)["tokenizer.ggml.model"] == "gpt2"
    assert notes_on(tokenizer, "model") == ()


def test_sentencepiece_without_all_bytes_is_refused() -> None:
    """llama.cpp aborts at a text that needs the one that lacks."""

    def rename(described: dict[str, Any]) -> None:
        vocabulary = described["model"]["vocab"]
        vocabulary["other"] = vocabulary.pop("<0x7F>")

    with pytest.raises(UnsupportedModelError, match="lacks 1 of their 256 tokens, such as <0x7F>"):
        contents(edited(sentencepiece(), rename))


@pytest.mark.parametrize("affix", ["continuing_subword_prefix", "end_of_word_suffix"])
def test_tokens_that_are_marked_within_words_are_refused(affix: str) -> None:
    tokenizer = byte_level(SPLITS["gpt-2"])
    setattr(tokenizer.backend_tokenizer.model, affix, "@@")
    with pytest.raises(UnsupportedModelError, match=rf"are marked within words \({affix}\), and llama\.cpp's are not"):
        contents(tokenizer)


@pytest.mark.parametrize(
    ("split", "kind"),
    [
        (pre_tokenizers.Metaspace(prepend_scheme="never", split=False), None),
        (pre_tokenizers.Split(" ", "merged_with_previous"), None),
        (pre_tokenizers.Split("b", "isolated"), "Split"),
        (pre_tokenizers.Sequence([pre_tokenizers.Punctuation(), pre_tokenizers.Digits()]), "Punctuation, Digits"),
    ],
    ids=["Metaspace", "Gemma's", "another split", "Punctuation and Digits"],
)
def test_sentencepiece_splits_at_blanks_alone(split: Any, kind: str | None) -> None:
    tokenizer = sentencepiece()
    tokenizer.backend_tokenizer.pre_tokenizer = split
    if kind is None:
        assert notes_on(tokenizer, "model") == ()
    else:
        with pytest.raises(UnsupportedModelError, match=rf"splits a text before \({kind}\), which llama\.cpp does not"):
            contents(tokenizer)


@pytest.mark.parametrize("scheme", ["first", "always"])
def test_a_blank_that_is_put_before_some_texts_alone_is_told(scheme: str) -> None:
    """As in tokenizers of Mistral: not before a text that begins with one."""
    tokenizer = sentencepiece()
    tokenizer.backend_tokenizer.normalizer = None
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    (note,) = notes_on(tokenizer, "model")
    assert note.startswith("llama.cpp puts a blank before every text and after every added token, and the tokenizer")
    assert int(note.split("(")[1].split()[0]) > 40


@pytest.mark.parametrize("seen", [False, True], ids=["not seen", "seen"])
def test_merges_that_llama_cpp_makes_besides_are_told_or_refused(seen: bool) -> None:
    """It puts together whatever is a token: what an odd text shows is refused."""
    more = ("he",) if seen else ("qz",)
    tokenizer = sentencepiece(more=(*"qzhe", *more))
    if seen:
        with pytest.raises(UnsupportedModelError, match="such as 'HELLO There"):
            notes_on(tokenizer, "model")
    else:
        (note,) = notes_on(tokenizer, "model")
        assert note.startswith("llama.cpp merges 1 pairs of tokens that the tokenizer does not, such as 'q' and 'z':")


def test_sentencepieces_blank_in_an_added_token_of_bytes_stays() -> None:
    tokenizer = byte_level(SPLITS["gpt-2"])
    tokenizer.add_tokens([AddedToken("\u2581a", normalized=False)])
    assert "\u2581a" in contents(tokenizer)["tokenizer.ggml.tokens"]
    assert notes_on(tokenizer, "model") == ()


@pytest.mark.parametrize(
    ("token", "normalized", "what"),
    [
        ("\u2581\u2581b", False, "finds as blanks, and not as '\u2581',"),
        ("ab", True, "finds before blanks and letters"),
    ],
    ids=["with blanks", "in the changed text"],
)
def test_added_tokens_of_sentencepiece_that_are_found_otherwise_are_told(
    token: str, normalized: bool, what: str
) -> None:
    tokenizer = sentencepiece()
    tokenizer.add_tokens([AddedToken(token, normalized=normalized)])
    (note,) = notes_on(tokenizer, "model")
    assert note.startswith(f"llama.cpp {what}")
    assert note.endswith(" odd texts have other tokens)")


def test_names_of_templates_that_change_are_told() -> None:
    tokenizer = byte_level(SPLITS["gpt-2"])
    tokenizer.chat_template = {"default": "a", "rag-x": "b"}
    assert notes_on(tokenizer, "model") == ("chat templates have other names in the file: 'rag-x' as 'rag_x'",)


@pytest.mark.parametrize("kind", ["the same", "told", "unexplained"])
def test_a_check_of_token_ids_speaks_of_the_files_own(kind: str, tmp_path: Path) -> None:
    """The tokenizer beside the file is the base's in each case."""
    tokenizer = byte_level(SPLITS["gpt-2"])
    if kind == "told":
        tokenizer.backend_tokenizer.normalizer = normalizers.NFC()
    tokenizer.save_pretrained(tmp_path)
    values = {**planned(sample("llama_tied"), "F16").values, **vocabulary_of(tokenizer, 400)}
    if kind == "unexplained":
        values["tokenizer.ggml.merges"] = Value("string", values["tokenizer.ggml.merges"].content[:3])
    list(write_gguf(tmp_path / "model.gguf", values, (), lambda entry: None))
    quantization = {"quant_method": "gguf", "file": "model.gguf"}
    (tmp_path / "config.json").write_text(json.dumps({"quantization_config": quantization}), encoding="utf-8")
    answer = describe_tokenizer(tokenizer) | {"generation": None, "tokenizer_error": "", "generation_error": ""}
    (check,) = (one for one in check_behaviour(open_artifact(tmp_path), answer, answer) if one.name == "token ids")
    assert check.passed == (kind != "unexplained")
    shown = {"the same": "", "told": "the tokenizer joins letters", "unexplained": "again"}[kind]
    assert shown in check.note
    assert ("by the file's own tokenizer, llama.cpp would make other tokens" in check.value) == (kind == "unexplained")


def test_a_header_that_llama_cpp_could_not_read_is_told() -> None:
    tokenizer = byte_level(SPLITS["gpt-2"])
    values = contents(tokenizer)
    values["tokenizer.ggml.merges"] = (*values["tokenizer.ggml.merges"], "a unheardof")
    assert "llama.cpp could not read it" in compare_tokens(tokenizer, values).value


def contents(tokenizer: Any) -> dict[str, Any]:
    """What the header of a file with this tokenizer says of it."""
    return {key: value.content for key, value in vocabulary_of(tokenizer, 400).items()}


def edited(tokenizer: PreTrainedTokenizerFast, edit: Callable[[dict[str, Any]], None]) -> PreTrainedTokenizerFast:
    """A tokenizer whose `tokenizer.json` was edited."""
    described = json.loads(tokenizer.backend_tokenizer.to_str())
    edit(described)
    backend = Tokenizer.from_str(json.dumps(described))
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>")  # noqa: S106  # a token of a text
