"""The likeliest tokens with a static cache are those of the model's own `generate`; where that fails, it is told."""

from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from qtoolkit.evaluation import graph_generation
from qtoolkit.evaluation.generation import continue_text
from qtoolkit.evaluation.graph_generation import generate_by_graph, takes_graph
from tests.sample_models import random_model

PROMPT = torch.tensor([[5, 9, 2, 40, 17]])


@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
def test_the_tokens_are_those_of_generate(architecture: str) -> None:
    model = random_model(architecture, torch.float32)
    expected = model.generate(PROMPT, do_sample=False, max_new_tokens=12, min_new_tokens=12, pad_token_id=0)
    found = generate_by_graph(model, PROMPT, max_new_tokens=12, ends=(), on_note=pytest.fail)
    assert found is not None
    assert found.tolist() == expected.tolist()
    # It ends with the first of these tokens.
    end = expected[0, 7].item()
    ended = generate_by_graph(model, PROMPT, max_new_tokens=12, ends=(end,), on_note=pytest.fail)
    assert ended is not None
    first = 5 + expected[0, 5:].tolist().index(end)
    assert ended.tolist() == expected[:, : first + 1].tolist()


def test_what_cannot_be_done_is_told_once_and_memory_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_model("llama", torch.float32)
    notes: list[str] = []

    def fails(*args: object, **kwargs: object) -> None:
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    monkeypatch.setattr(model, "forward", fails)
    assert generate_by_graph(model, PROMPT, max_new_tokens=3, ends=(), on_note=notes.append) is None
    (note,) = notes
    assert note.startswith("generated without a CUDA graph, which is slower: operation not permitted")
    assert model in graph_generation._without_graph

    def full(*args: object, **kwargs: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(model, "forward", full)
    with pytest.raises(torch.OutOfMemoryError):
        generate_by_graph(model, PROMPT, max_new_tokens=3, ends=(), on_note=notes.append)


def test_a_cache_that_slides_is_left_to_generate() -> None:
    model = random_model("llama", torch.float32)
    model.config.layer_types = ["sliding_attention"] * model.config.num_hidden_layers
    model.config.sliding_window = 4
    notes: list[str] = []
    assert generate_by_graph(model, PROMPT, max_new_tokens=3, ends=(), on_note=notes.append) is None
    assert "whose steps differ" in notes[0]


def test_a_processor_and_other_options_take_none(monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_model("llama", torch.float32)
    assert not takes_graph(model)
    monkeypatch.setattr(type(model), "device", torch.device("cuda", 0))
    assert takes_graph(model)
    model.generation_config.repetition_penalty = 1.2
    assert not takes_graph(model)


def test_a_text_goes_on_in_the_same_words(monkeypatch: pytest.MonkeyPatch, smollm2: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    model = random_model("llama", torch.float32, vocab_size=len(tokenizer))
    plain = continue_text(model, tokenizer, "The bridge", max_new_tokens=6)
    used = []

    def by_graph(*args: object, **kwargs: object) -> torch.Tensor | None:
        used.append(kwargs)
        return generate_by_graph(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr("qtoolkit.evaluation.generation.takes_graph", lambda model: True)
    monkeypatch.setattr("qtoolkit.evaluation.generation.generate_by_graph", by_graph)
    assert continue_text(model, tokenizer, "The bridge", max_new_tokens=6) == plain
    # Not where somebody asks for more than the likeliest tokens.
    continue_text(model, tokenizer, "The bridge", max_new_tokens=2, num_beams=2)
    assert [kwargs["max_new_tokens"] for kwargs in used] == [6]
