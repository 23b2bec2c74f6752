"""Tokens that a model has no embedding for: told when it is opened, refused before it reads them, never padded with."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

import qtoolkit as qt
from qtoolkit.errors import CheckpointError, ConfigError
from qtoolkit.evaluation.generation import continue_text
from qtoolkit.texts.self_calibration import self_calibration
from tests.sample_models import random_model

ROWS = 1000


@pytest.fixture(scope="module")
def larger_tokenizer(smollm2: Path) -> Any:
    """49,152 tokens."""
    return AutoTokenizer.from_pretrained(smollm2)


def saved(folder: Path, tokenizer: Any, kind: str = "llama", **settings: Any) -> Path:
    """A model of 1,000 embeddings, with other values in its config."""
    random_model(kind, vocab_size=ROWS).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))
    return folder


def test_a_tokenizer_of_more_tokens_is_told_and_its_text_refused(tmp_path: Path, larger_tokenizer: Any) -> None:
    quantized = qt.quantize(saved(tmp_path / "model", larger_tokenizer), "absmax", device="cpu")
    told = "the tokenizer knows 49152 tokens, and the model has embeddings for 1000: text with others is refused"
    assert told in quantized.report.notes
    with pytest.raises(
        ConfigError, match=r"makes token \d+, and the model has embeddings for 0 to 999: give .*tokenizer="
    ):
        quantized.generate("hello")


def test_a_tokenizer_that_fits_is_not_told(tiny_llama: Path) -> None:
    assert not any("embeddings" in note for note in qt.quantize(tiny_llama, "absmax", device="cpu").report.notes)


class Letters:
    """A tokenizer of few tokens that pads with one that the model does not know."""

    pad_token_id = ROWS
    bos_token_id = ROWS + 1
    eos_token_id = 2

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def __call__(self, prompt: str, **options: Any) -> Any:
        tokens = self._tokenizer(prompt, **options)
        tokens["input_ids"] = tokens["input_ids"] % ROWS
        return tokens

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)


def test_answers_are_padded_with_a_token_that_the_model_knows(larger_tokenizer: Any) -> None:
    """One that ends early is filled up while the other goes on, and the model reads that."""
    model, tokenizer = random_model("llama", vocab_size=ROWS), Letters(larger_tokenizer)
    # Nearly every token ends a text: at least one of 8 answers ends before the last.
    options = {"do_sample": True, "num_return_sequences": 8, "eos_token_id": list(range(0, ROWS, 2))}
    assert isinstance(continue_text(model, tokenizer, "hello", max_new_tokens=8, **options), str)
    with pytest.raises(ConfigError, match="pad_token_id is 1000, and the model has embeddings for 0 to 999"):
        continue_text(model, tokenizer, "hello", max_new_tokens=8, pad_token_id=ROWS)


def test_text_that_a_model_writes_begins_with_a_token_that_it_knows(larger_tokenizer: Any) -> None:
    written = self_calibration(
        random_model("llama", vocab_size=ROWS),
        Letters(larger_tokenizer),
        num_samples=2,
        seq_len=8,
        on_progress=lambda event: None,
    )
    assert int(written.tokens.max()) < ROWS


@pytest.mark.parametrize("pad", [ROWS, 10**9, -ROWS - 1])
def test_a_config_that_transformers_cannot_build_names_its_pad_token(
    tmp_path: Path, larger_tokenizer: Any, pad: int
) -> None:
    folder = saved(tmp_path / "model", larger_tokenizer, pad_token_id=pad)
    with pytest.raises(CheckpointError, match=r"set pad_token_id in config\.json to a token of the model, or to null"):
        qt.quantize(folder, "absmax", device="cpu")


@pytest.mark.parametrize(("kind", "pad"), [("gpt2", ROWS), ("llama", -1)])
def test_a_pad_token_of_no_embedding_is_told(tmp_path: Path, larger_tokenizer: Any, kind: str, pad: int) -> None:
    folder = saved(tmp_path / "model", larger_tokenizer, kind, pad_token_id=pad)
    (folder / "generation_config.json").write_text(json.dumps({"pad_token_id": pad}))
    notes = qt.quantize(folder, "absmax", device="cpu").report.notes
    for file in ("config.json", "generation_config.json"):
        assert any(note.startswith(f"{file} pads with token {pad}, and the model has embed") for note in notes)
