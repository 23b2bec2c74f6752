"""A product of an int8 layer of ours logs nothing; one of bitsandbytes' own layer logs its line as before."""

import logging

import bitsandbytes as bnb
import pytest
import torch

import qtoolkit as qt
from tests.sample_models import random_model


def test_only_our_layers_are_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    model = qt.quantize(random_model("llama", dtype=torch.bfloat16), qt.Int8(), device="cpu").model
    theirs = bnb.nn.Linear8bitLt(32, 32, has_fp16_weights=False).to("cpu").eval()
    lines: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = lines.append  # type: ignore[method-assign]
    logger = logging.getLogger("bitsandbytes.autograd._functions")
    # import-linter, which another test may have run in this process, disables all loggers.
    monkeypatch.setattr(logger, "disabled", False)
    logger.addHandler(handler)
    try:
        model(torch.arange(6)[None])
        assert not lines
        theirs(torch.randn(2, 32).bfloat16())
        assert [line.msg for line in lines] == [
            "MatMul8bitLt: inputs will be cast from %s to float16 during quantization"
        ]
    finally:
        logger.removeHandler(handler)
