"""Tokenizers in `.gguf` files: transformers reads back one that makes the same tokens."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from gguf import GGUFWriter
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from qtoolkit.checkpoints.gguf_writing import write_gguf
from qtoolkit.errors import UnsupportedModelError
from qtoolkit.formats.gguf.token_check import notes_on_tokens
from qtoolkit.formats.gguf.vocabulary import further_ends, name_of, vocabulary_of
from tests.formats.gguf.test_file_plan import planned, sample

TEXTS = [
    "The keeper wrote 12,50 letters.\n\tdef f(x): return {'a': [x ** 2]}",
    "Größere Bücher, 你好 мир 🎉",
    "  I've  3 333 ",
]
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
SPLITS: dict[str, Any] = {
    "gpt-2": pre_tokenizers.ByteLevel(add_prefix_space=False),
    "smollm": pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    ),
    "dbrx": pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(LLAMA3), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    ),
}


@pytest.mark.parametrize("name", SPLITS)
def test_the_way_of_splitting_is_named(name: str) -> None:
    """By its patterns, since tokens of our own have a hash of their own."""
    values = vocabulary_of(byte_level(SPLITS[name]), 400)
    assert values["tokenizer.ggml.pre"].content == name


def test_words_that_are_taken_whole_have_another_name() -> None:
    """llama.cpp's `llama-bpe` takes a word that is a token, though no merges make it; its `dbrx` does not."""
    tokenizer = byte_level(SPLITS["dbrx"])
    tokenizer.backend_tokenizer.model.ignore_merges = True
    assert vocabulary_of(tokenizer, 400)["tokenizer.ggml.pre"].content == "llama-bpe"
    tokenizer = byte_level(SPLITS["gpt-2"])
    tokenizer.backend_tokenizer.model.ignore_merges = True
    with pytest.raises(UnsupportedModelError, match="no name of the way in which it splits a text"):
        vocabulary_of(tokenizer, 400)


def test_a_way_of_splitting_that_has_no_name_is_refused() -> None:
    """Rather than guessed."""
    with pytest.raises(UnsupportedModelError, match="no name of the way in which it splits a text"):
        vocabulary_of(byte_level(pre_tokenizers.ByteLevel(add_prefix_space=True)), 400)


def test_a_text_that_is_changed_before_is_refused() -> None:
    """llama.cpp would see capitals."""
    tokenizer = byte_level(SPLITS["gpt-2"])
    tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    with pytest.raises(UnsupportedModelError, match=r"it changes a text before \(Lowercase\)"):
        vocabulary_of(tokenizer, 400)


@pytest.mark.parametrize("kind", ["byte_level", "sentencepiece"])
@pytest.mark.parametrize("normalizer", [normalizers.NFC(), normalizers.NFKC()], ids=["NFC", "NFKC"])
def test_letters_and_marks_that_are_joined_before_are_told_or_refused(kind: str, normalizer: Any) -> None:
    """llama.cpp joins none: NFC changes few texts, NFKC many. Blanks that become SentencePiece's are no change."""
    tokenizer = byte_level(SPLITS["gpt-2"]) if kind == "byte_level" else sentencepiece()
    assert notes_on(tokenizer, "name") == ()
    own = tokenizer.backend_tokenizer.normalizer
    parts = [normalizer, *([own] if own is not None else [])]
    tokenizer.backend_tokenizer.normalizer = normalizers.Sequence(parts)
    if isinstance(normalizer, normalizers.NFC):
        (note,) = notes_on(tokenizer, "name")
        assert "joins letters and marks that stand apart (NFC), and llama.cpp does not: such texts have" in note
        assert "tokenizer.ggml.tokens" in vocabulary_of(tokenizer, 400)
    else:
        with pytest.raises(
            UnsupportedModelError, match=r"it changes a text before \(NFKC\), which llama\.cpp does not"
        ):
            vocabulary_of(tokenizer, 400)


def test_no_change_in_a_list_is_none() -> None:
    """DeepSeek's tokenizers have such a list."""
    tokenizer = byte_level(SPLITS["gpt-2"])
    tokenizer.backend_tokenizer.normalizer = normalizers.Sequence([])
    assert vocabulary_of(tokenizer, 400)["tokenizer.ggml.pre"].content == "gpt-2"
    assert notes_on(tokenizer, "name") == ()


def test_blanks_beside_tokens_and_words_around_them_are_told() -> None:
    """A header has no place for either; llama.cpp drops blanks after those of a model that is called Phi-3 alone."""
    tokenizer = byte_level(SPLITS["gpt-2"])
    ends = [AddedToken(text, rstrip=True, special=True) for text in ("<|end|>", "<|user|>", "</s>", "<|a|>")]
    tokenizer.add_tokens([*ends, AddedToken("word", single_word=True)])
    blanks, words = notes_on(tokenizer, "Llama")
    assert blanks == (
        "llama.cpp keeps or drops blanks beside the tokens '<|end|>', '<|user|>', '</s>' and 1 more, otherwise than "
        "the tokenizer (10 of 213 odd texts have other tokens)"
    )
    assert words == (
        "llama.cpp finds within words, too, the tokens 'word', otherwise than the tokenizer (1 of 213 odd texts have "
        "other tokens)"
    )
    (told,) = notes_on(tokenizer, "Phi-3-mini")[:-1]
    assert "the tokens 'word', otherwise" in told


def test_tokens_have_their_types() -> None:
    """Special ones are control tokens, others that were added belong to the user, missing ones are unused."""
    tokenizer = byte_level(SPLITS["gpt-2"])
    tokenizer.add_tokens(["<tool>"])
    tokens, types = (vocabulary_of(tokenizer, 400)[f"tokenizer.ggml.{key}"].content for key in ("tokens", "token_type"))
    by_token = dict(zip(tokens, types, strict=True))
    assert len(tokens) == 400
    assert (by_token["<s>"], by_token["<tool>"], by_token["[PAD399]"], by_token["e"]) == (3, 4, 5, 1)


def test_special_tokens_and_template_are_told() -> None:
    """Those that are put around each text by what the tokenizer does."""
    tokenizer = byte_level(SPLITS["gpt-2"])
    tokenizer.chat_template = "{{ messages }}"
    values = vocabulary_of(tokenizer, 400)
    assert values["tokenizer.chat_template"].content == "{{ messages }}"
    assert values["tokenizer.ggml.bos_token_id"].content == tokenizer.bos_token_id
    assert values["tokenizer.ggml.add_bos_token"].content is True
    assert values["tokenizer.ggml.add_eos_token"].content is False


@pytest.mark.parametrize("kept", [("default", "tool_use", "rag-2"), ("tool_use",), ("default",)], ids="-".join)
def test_templates_of_several_uses_are_told_as_the_gguf_package_does(kept: tuple[str, ...]) -> None:
    """llama.cpp takes "tool_use" where tools are offered."""
    tokenizer = byte_level(SPLITS["gpt-2"])
    tokenizer.chat_template = {name: f"{{{{ messages }}}} {name}" for name in kept}
    theirs = GGUFWriter(None, "llama")
    theirs.add_chat_template([{"name": name, "template": text} for name, text in tokenizer.chat_template.items()])
    ours = {key: value.content for key, value in vocabulary_of(tokenizer, 400).items() if ".chat_template" in key}
    # Theirs is in the order of a set.
    names = sorted(ours.pop("tokenizer.chat_templates", ()))
    expected = {key: value.value for key, value in theirs.kv_data[0].items() if ".chat_template" in key}
    assert names == sorted(expected.pop("tokenizer.chat_templates", ()))
    assert ours == expected


def test_templates_that_would_have_the_same_name_are_refused() -> None:
    tokenizer = byte_level(SPLITS["gpt-2"])
    tokenizer.chat_template = {"rag-2": "a", "rag_2": "b"}
    with pytest.raises(UnsupportedModelError, match=r"the chat templates 'rag-2', 'rag_2': .*: rename one in"):
        vocabulary_of(tokenizer, 400)


@pytest.mark.parametrize(
    ("template", "told"),
    [("<s> $A", (True, False)), ("$A <s>", (False, True)), ("<s> $A <s>", (True, True)), ("$A", (False, False))],
)
def test_one_token_may_begin_and_end_a_text(template: str, told: tuple[bool, bool]) -> None:
    tokenizer = byte_level(SPLITS["gpt-2"])
    tokenizer.add_special_tokens({"eos_token": "<s>"})
    around = processors.TemplateProcessing(template, special_tokens=[("<s>", tokenizer.bos_token_id)])
    tokenizer.backend_tokenizer.post_processor = around
    values = vocabulary_of(tokenizer, 400)
    assert tuple(values[f"tokenizer.ggml.add_{kind}_token"].content for kind in ("bos", "eos")) == told


@pytest.mark.parametrize("template", ["<s> e $A", "$A e", "<s> <s> $A"])
def test_other_tokens_around_a_text_are_refused(template: str) -> None:
    """A file has no place for them, and llama.cpp would leave them out."""
    tokenizer = byte_level(SPLITS["gpt-2"])
    special = [(token, tokenizer.convert_tokens_to_ids(token)) for token in ("<s>", "e")]
    around = processors.TemplateProcessing(template, special_tokens=special)
    tokenizer.backend_tokenizer.post_processor = around
    with pytest.raises(UnsupportedModelError, match=r"its tokenizer makes \[.* around a text alone"):
        vocabulary_of(tokenizer, 400)


def test_further_tokens_that_end_an_answer_are_told() -> None:
    """Those of a config's list that llama.cpp does not know by their texts."""
    tokenizer = byte_level(SPLITS["gpt-2"])
    tokenizer.add_special_tokens({"eos_token": "<s>"})
    tokenizer.add_tokens(["<|im_end|>", "<stop>", "<halt>"], special_tokens=True)
    own, known, stop, halt = tokenizer.convert_tokens_to_ids(["<s>", "<|im_end|>", "<stop>", "<halt>"])
    values = further_ends(tokenizer, [own, known, stop, halt])
    assert {key: value.content for key, value in values.items()} == {
        "tokenizer.ggml.eot_token_id": stop,
        "tokenizer.ggml.eom_token_id": halt,
    }
    assert further_ends(tokenizer, own) == further_ends(None, [own, stop]) == {}


def test_a_name_for_which_llama_cpp_asks_for_other_tokens_is_written_otherwise() -> None:
    """It takes "phi-3" and "phi3" for Phi-3, looks up four of its tokens, and refuses the file without one of them."""
    other, own = byte_level(SPLITS["gpt-2"]), byte_level(SPLITS["gpt-2"])
    own.add_tokens(["</s>", "<unk>", "<s>", "<|endoftext|>"])
    for name, written in (("Phi-3-mini", "Phi 3-mini"), ("my-phi3.5", "my-phi 3.5"), ("phi-2", "phi-2")):
        assert name_of(name, other) == written
        assert name_of(name, own) == name_of(name, None) == name


def test_transformers_reads_back_the_same_tokens(tmp_path: Path) -> None:
    """On texts of many scripts."""
    tokenizer = byte_level(SPLITS["gpt-2"])
    back = read_back(tokenizer, tmp_path)
    for text in (*TEXTS, *odd_texts()):
        assert back.encode(text, add_special_tokens=False) == tokenizer.encode(text, add_special_tokens=False), text


def test_sentencepiece_merges_become_scores() -> None:
    """The first merge has the highest; bytes are marked, and a space before each text is told."""
    values = vocabulary_of(sentencepiece(), 300)
    tokens, types, scores = (values[f"tokenizer.ggml.{key}"].content for key in ("tokens", "token_type", "scores"))
    score, kind = dict(zip(tokens, scores, strict=True)), dict(zip(tokens, types, strict=True))
    assert values["tokenizer.ggml.model"].content == "llama"
    assert score["ab"] > score["abc"] > score["a"]
    assert (kind["<unk>"], kind["<s>"], kind["<0x0A>"], kind["abc"]) == (2, 3, 6, 1)
    assert values["tokenizer.ggml.add_space_prefix"].content is True


def test_merges_that_no_scores_sort_are_refused() -> None:
    """Pairs of one token stand apart, as a trainer of another library leaves them."""
    merges = [("a", "b"), ("b", "c"), ("ab", "c"), ("\u2581", "abc"), ("a", "bc")]
    with pytest.raises(UnsupportedModelError, match=r"no order of tokens tells which pairs merge first \('abc'\)"):
        vocabulary_of(sentencepiece(merges, more=("bc",)), 300)


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused() -> None:
    """It belongs to another model."""
    with pytest.raises(UnsupportedModelError, match="and the model 100 tokens"):
        vocabulary_of(byte_level(SPLITS["gpt-2"]), 100)


def test_other_kinds_are_refused() -> None:
    """One of whole words, and one that is no tokenizer of transformers."""
    model = Tokenizer(models.WordLevel({"a": 0}, "a"))
    words = PreTrainedTokenizerFast(tokenizer_object=model)
    with pytest.raises(UnsupportedModelError, match="of the type WordLevel: those of merges"):
        vocabulary_of(words, 10)
    with pytest.raises(UnsupportedModelError, match=r"which has no tokenizer\.json"):
        vocabulary_of(object(), 10)


def byte_level(split: Any) -> PreTrainedTokenizerFast:
    """A tokenizer of bytes with some merges, which puts <s> before each text."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = split
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=320, initial_alphabet=alphabet, special_tokens=["<s>"], show_progress=False
    )
    backend.train_from_iterator(TEXTS * 3, trainer)
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>")  # noqa: S106  # a token of a text


def sentencepiece(
    merges: Sequence[tuple[str, str]] = (("a", "b"), ("ab", "c"), ("\u2581", "abc")), more: tuple[str, ...] = ()
) -> PreTrainedTokenizerFast:
    """A tokenizer as transformers makes of one of SentencePiece, with a few merges."""
    bytes_ = [f"<0x{number:02X}>" for number in range(256)]
    tokens = ["<unk>", "<s>", *bytes_, "\u2581", "a", "b", "c", "ab", "abc", "\u2581abc", *more]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    backend = Tokenizer(models.BPE(vocabulary, list(merges), unk_token="<unk>", byte_fallback=True, fuse_unk=True))  # noqa: S106
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    backend.add_special_tokens([AddedToken("<s>", special=True)])
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", unk_token="<unk>")  # noqa: S106


def notes_on(tokenizer: Any, name: str) -> tuple[str, ...]:
    """The notes on a tokenizer in the file of a model of this name."""
    values = {key: value.content for key, value in vocabulary_of(tokenizer, 400).items()}
    return notes_on_tokens(tokenizer, {**values, "general.name": name})


def read_back(tokenizer: Any, folder: Path) -> Any:
    """Write a small model with this tokenizer, and let transformers read the tokenizer."""
    model = sample("llama_tied")
    values = {**planned(model, "F16").values, **vocabulary_of(tokenizer, 400)}
    list(write_gguf(folder / "model.gguf", values, (), lambda entry: model))
    return AutoTokenizer.from_pretrained(folder, gguf_file="model.gguf")


def odd_texts() -> list[str]:
    """Two hundred texts of blanks, digits, marks and letters of several scripts, mixed at random."""
    generator = random.Random(0)  # noqa: S311  # not for secrets
    parts = [
        "abcdefg XYZ'",
        "0123456789.,",
        "\n\t  \r",
        "äöß",
        "你好世",
        "нещо",
        "🎉👩\u200d👧",
        "!?/{}[]<|>",
        "'s't're",
    ]
    return [
        "".join(generator.choice(generator.choice(parts)) for _ in range(generator.randint(0, 40))) for _ in range(200)
    ]
