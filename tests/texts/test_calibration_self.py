"""Text that a model writes itself follows the model's own distribution, and leaves the model as it was."""

import copy
from inspect import signature
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812  # torch's own name for it
from transformers import (
    AutoTokenizer,
    MambaConfig,
    MambaForCausalLM,
    PreTrainedModel,
    RwkvConfig,
    RwkvForCausalLM,
)
from transformers.cache_utils import DynamicLayer

from qtoolkit.errors import JobCancelled, UnsupportedModelError
from qtoolkit.records import ProgressEvent
from qtoolkit.texts.calibration_text import Calibration
from qtoolkit.texts.kv_cache import BufferedLayer, OneQuery, attend
from qtoolkit.texts.self_calibration import draw, self_calibration
from tests.sample_models import random_model
from tests.texts.calibration_texts import ignore_progress

BOS, EOS = 1, 2
KINDS = ["llama", "qwen2", "gemma3_text", "gpt2", "mixtral", "mamba"]


def model_of(kind: str, dtype: torch.dtype = torch.float32, **changes: Any) -> PreTrainedModel:
    """A small random model whose next tokens are neither certain nor uniform."""
    if kind == "mamba":
        config = MambaConfig(vocab_size=256, hidden_size=64, num_hidden_layers=2, bos_token_id=BOS, eos_token_id=EOS)
        torch.manual_seed(0)
        model: PreTrainedModel = MambaForCausalLM(config).to(dtype).eval()
    else:
        model = random_model(kind, dtype, **changes)
        model.get_output_embeddings().weight.data *= 10
    return model


def write(model: Any, **changes: Any) -> Calibration:
    """`self_calibration` of 3 samples of 24 tokens."""
    options = {"tokenizer": None, "num_samples": 3, "seq_len": 24, "on_progress": ignore_progress}
    return self_calibration(model, **(options | changes))


def written_slowly(model: Any, uniform: torch.Tensor) -> list[list[int]]:
    """Samples drawn by the same numbers [steps, rows], without a cache, one row at a time, in numpy."""
    rows = []
    for column in uniform.T.tolist():
        row = [BOS]
        for number in column[1:]:
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([row]), use_cache=False).logits[0, -1].double().numpy()
            odds = np.exp(logits - logits.max())
            drawn = int(np.searchsorted(np.cumsum(odds / odds.sum()), number, side="right"))
            row.append(BOS if row[-1] == EOS else drawn)
        rows.append(row)
    return rows


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_are_those_of_a_slow_loop(kind: str) -> None:
    model = model_of(kind)
    uniform = torch.rand(24, 3, generator=torch.Generator().manual_seed(5))
    tokens = write(model, seed=5).tokens
    assert tokens.shape == (3, 24)
    assert tokens.dtype is torch.int64
    assert tokens.tolist() == written_slowly(model, uniform)
    assert len(set(tokens.flatten().tolist())) > 10


@pytest.mark.parametrize("kind", KINDS)
def test_samples_written_one_at_a_time_are_the_same(kind: str) -> None:
    model = model_of(kind)
    assert write(model, memory=1).fingerprint == write(model).fingerprint


def test_a_seed_is_a_text() -> None:
    model = model_of("llama")
    assert write(model) == write(model, seed=0)
    assert write(model, seed=1).fingerprint != write(model).fingerprint


def test_a_text_that_ends_is_followed_by_another() -> None:
    model = model_of("llama")
    tokens = write(model, num_samples=64, seq_len=100).tokens
    ended = tokens[:, :-1] == EOS
    assert ended.sum() > 10
    assert (tokens[:, 1:][ended] == BOS).all()
    assert (tokens[:, 0] == BOS).all()


def test_every_end_of_the_model_counts() -> None:
    model = model_of("llama")
    model.generation_config.eos_token_id = [EOS, 7, 9]
    tokens = write(model, num_samples=64, seq_len=100).tokens
    for end in (EOS, 7, 9):
        assert (tokens[:, 1:][tokens[:, :-1] == end] == BOS).all()
        assert (tokens[:, :-1] == end).any()


def test_a_model_whose_texts_begin_as_they_end_goes_on_after_the_one_token() -> None:
    model = model_of("gpt2")
    model.config.bos_token_id = EOS
    tokens = write(model, num_samples=8, seq_len=100).tokens
    assert (tokens[:, 0] == EOS).all()
    assert len(set(tokens[:, 1].tolist())) > 1


def test_a_model_without_a_first_token_begins_anywhere() -> None:
    model = model_of("llama")
    model.config.bos_token_id = None
    sample = write(model, num_samples=50)
    assert len(set(sample.tokens[:, 0].tolist())) > 30
    assert sample.tokens.max() < 256
    assert "each from a token drawn uniformly, seed 0" in sample.notes[0]


def test_the_note_tells_how_it_was_written(smollm2: Any) -> None:
    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    sample = write(model_of("llama", vocab_size=49152), tokenizer=tokenizer, seed=3)
    assert sample.name == "self"
    (note,) = sample.notes
    assert note == (
        "calibrated with 3 samples of 24 tokens that the model wrote itself (72 tokens), each from <|im_start|>, seed 3"
    )


def test_samples_are_no_longer_than_the_model_reads() -> None:
    sample = write(model_of("gpt2"), num_samples=1, seq_len=500)
    assert sample.tokens.shape == (1, 128)
    assert "samples of 128 tokens instead of 500, the most that the model reads" in sample.notes


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluating"])
def test_the_model_and_the_random_numbers_stay_as_they_were(training: bool) -> None:
    model = model_of("gpt2").train(training)
    model.get_input_embeddings().train(not training)
    model.config.use_cache = False
    before = copy.deepcopy(model)
    state = torch.get_rng_state()
    sample = write(model)
    with pytest.raises(JobCancelled):
        write(model, on_progress=_stop)
    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in model.modules()] == [module.training for module in before.modules()]
    assert all(map(torch.equal, model.state_dict().values(), before.state_dict().values()))
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert model.config.to_dict() == before.config.to_dict()
    assert model.generation_config.to_dict() == before.generation_config.to_dict()
    assert write(before.eval()) == sample


def _stop(_event: ProgressEvent) -> None:
    raise JobCancelled


def test_each_step_is_reported() -> None:
    events: list[ProgressEvent] = []
    write(model_of("llama"), on_progress=events.append)
    assert [event.done for event in events] == [3 * step for step in range(1, 25)]
    assert {(event.phase, event.total, event.unit, event.detail) for event in events} == {
        ("calibrate", 72, "tokens", "self")
    }


def test_a_model_that_computes_no_numbers_is_refused() -> None:
    model = model_of("llama", torch.float16)
    model.get_output_embeddings().weight.data.fill_(60_000)
    with pytest.raises(UnsupportedModelError) as caught:
        write(model)
    assert str(caught.value) == (
        "LlamaForCausalLM computes NaN in float16, so that it cannot write its own calibration text: "
        "load it in bfloat16 or float32"
    )


def test_a_model_without_keys_and_values_is_refused() -> None:
    config = RwkvConfig(vocab_size=256, hidden_size=64, num_hidden_layers=2)
    with pytest.raises(UnsupportedModelError, match=r"^RwkvForCausalLM keeps no keys and values .*: give a file, or"):
        write(RwkvForCausalLM(config))


@pytest.mark.parametrize("kind", ["llama", "mamba"])
def test_the_cache_has_the_name_of_any_version(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers 5.24 calls it `cache` in all models."""
    model = model_of(kind)
    usual = model.forward
    old = next(name for name in ("cache", "past_key_values", "cache_params") if name in signature(usual).parameters)

    def forward(*, cache: Any = None, **others: Any) -> Any:
        return usual(**others, **{old: cache})

    expected = write(model).fingerprint
    monkeypatch.setattr(model, "forward", forward)
    assert write(model).fingerprint == expected


def test_tokens_are_drawn_as_likely_as_they_are() -> None:
    """With numbers at equal distances, each token comes as often as its probability has it, up to one."""
    odds = torch.rand(1, 50, generator=torch.Generator().manual_seed(0))
    odds[:, [0, 20, 49]] = 0
    odds /= odds.sum()
    uniform = torch.arange(10_000) / 10_000
    cumulative = odds.cumsum(-1).expand(10_000, -1).contiguous()
    counts = torch.bincount(draw(cumulative, uniform), minlength=50)
    assert ((counts - 10_000 * odds[0]).abs() <= 1.01).all()
    assert counts[[0, 20, 49]].tolist() == [0, 0, 0]


@pytest.mark.parametrize("heads", [(8, 8), (8, 2), (8, 1)], ids=["own keys", "4 share keys", "all share keys"])
@pytest.mark.parametrize("scale", [None, 0.5])
def test_attention_of_one_query_is_torchs_own(heads: tuple[int, int], scale: float | None) -> None:
    generator = torch.Generator().manual_seed(0)
    query, key, value = (
        torch.randn(3, count, length, 16, generator=generator)
        for count, length in ((heads[0], 1), (heads[1], 37), (heads[1], 37))
    )
    own = F.scaled_dot_product_attention(query, key, value, scale=scale, enable_gqa=True)
    torch.testing.assert_close(attend(query, key, value, scale), own)


def test_keys_with_room_are_those_that_came() -> None:
    layer, plain = BufferedLayer(), DynamicLayer()
    query = torch.randn(2, 4, 1, 16)
    for count in (1, 1, 70, 1, 64, 1):
        keys, values = torch.randn(2, 2, count, 16), torch.randn(2, 2, count, 16)
        kept, expected = layer.update(keys, values), plain.update(keys, values)
        assert all(map(torch.equal, kept, expected))
        assert layer.get_seq_length() == plain.get_seq_length()
        torch.testing.assert_close(
            attend(query, *kept, scale=None), F.scaled_dot_product_attention(query, *expected, enable_gqa=True)
        )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_only_one_query_that_sees_all_keys_is_attended_otherwise(dtype: torch.dtype) -> None:
    query, many = torch.randn(2, 4, 1, 16).to(dtype), torch.randn(2, 4, 5, 16).to(dtype)
    mask = torch.tensor([[True, False, False, True, True]])
    with OneQuery():
        plain = F.scaled_dot_product_attention(query, many, many)
        masked = F.scaled_dot_product_attention(query, many, many, attn_mask=mask)
        causal = F.scaled_dot_product_attention(many, many, many, is_causal=True)
    torch.testing.assert_close(plain, F.scaled_dot_product_attention(query, many, many), atol=0.02, rtol=0.02)
    assert torch.equal(masked, F.scaled_dot_product_attention(query, many, many, attn_mask=mask))
    assert torch.equal(causal, F.scaled_dot_product_attention(many, many, many, is_causal=True))


@pytest.mark.parametrize("kind", ["llama", "gemma3_text", "gpt2", "mixtral"])
def test_16_bits_write_what_the_model_finds_likely(kind: str) -> None:
    """Rounding may choose another token here and there, but not an unlikely one."""
    model = model_of(kind, torch.bfloat16)
    tokens = write(model, num_samples=8, seq_len=100).tokens
    exact = copy.deepcopy(model).float()
    with torch.no_grad():
        log_odds = exact(input_ids=tokens).logits[:, :-1].log_softmax(-1)
    found = -log_odds.gather(-1, tokens[:, 1:, None]).mean()
    entropy = -(log_odds.exp() * log_odds).sum(-1).mean()
    assert abs(found - entropy) < 0.3
    assert entropy < 5.4  # less than that of uniform tokens, 5.55 nats
