"""After a run of tasks everything is as it was: the model, its tokenizer, random states, environment and logging."""

import copy
import logging
import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import qtoolkit as qt
from tests.evaluation.task_files import write_task

pytestmark = pytest.mark.slow

pytest.importorskip("lm_eval", reason="lm-eval is not installed: pip install 'lm-eval>=0.4.13'")

TOKENS = torch.arange(2, 34)[None]  # [1, 32]
GPTQ = qt.GPTQ(bits=4, group_size=32, calibration=["Some text to calibrate on. " * 99], num_samples=2, seq_len=32)
CONFIGS = {
    "nf4": qt.NF4(),
    "zero-point": qt.ZeroPoint(bits=4, granularity="group", group_size=32),
    "gptq": GPTQ,
    "the head too": qt.AbsMax(bits=8, exclude=()),
}


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(TOKENS).logits


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_a_quantized_model_computes_the_same_afterwards(tiny_llama: Path, tmp_path: Path, config: Any) -> None:
    quantized = qt.quantize(tiny_llama, config, device="cpu")
    model = quantized.model
    model.model.layers[0].train()
    training = [module.training for module in model.modules()]
    before = logits(model.eval())
    for module, was in zip(model.modules(), training, strict=True):
        module.training = was
    qt.run_tasks(quantized, write_task(tmp_path), limit=2)
    assert [module.training for module in model.modules()] == training
    assert any(training) and not all(training)
    assert torch.equal(logits(model.eval()), before)


def test_the_tokenizer_gets_no_padding_token(tiny_llama: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    tokenizer.pad_token = None
    before = copy.deepcopy(tokenizer.special_tokens_map)
    qt.run_tasks(tiny_llama, write_task(tmp_path), limit=2, tokenizer=tokenizer)
    assert tokenizer.special_tokens_map == before
    assert tokenizer.pad_token is None


@pytest.mark.parametrize("ends", ["well", "with an error"])
def test_process_wide_state_is_what_it_was(tiny_llama: Path, tmp_path: Path, ends: str) -> None:
    write_task(tmp_path)
    if ends == "with an error":
        (tmp_path / "test.jsonl").write_text("no JSON")
    logger = logging.getLogger("lm_eval")
    random.seed(5)
    np.random.seed(5)  # noqa: NPY002
    torch.manual_seed(5)

    def state() -> tuple[Any, ...]:
        environment = dict(os.environ)
        return random.getstate(), torch.get_rng_state().tolist(), environment, logger.level, logging.root.handlers[:]

    before, numpy_before = state(), np.random.get_state()  # noqa: NPY002
    if ends == "well":
        qt.run_tasks(tiny_llama, tmp_path, limit=2)
    else:
        with pytest.raises(qt.QToolkitError):
            qt.run_tasks(tiny_llama, tmp_path, limit=2)
    assert state() == before
    assert all(np.array_equal(a, b) for a, b in zip(np.random.get_state(), numpy_before, strict=True))  # noqa: NPY002


def test_the_same_run_gives_the_same_report(tiny_llama: Path, tmp_path: Path) -> None:
    """Whatever the random states are when it begins: examples are drawn alike."""
    write_task(tmp_path, fewshot_config={"sampler": "default"})
    reports = []
    for seed in (1, 2):
        random.seed(seed)
        torch.manual_seed(seed)
        reports.append(qt.run_tasks(tiny_llama, tmp_path, num_fewshot=1))
    assert reports[0].metrics == reports[1].metrics
