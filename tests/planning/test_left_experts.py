"""Experts that transformers replaces when it reads a format may not be left as they are."""

import pytest
import torch

import qtoolkit as qt
from scripts.small_models import small_model


def test_llama_4s_experts_are_not_left_where_its_reader_replaces_them() -> None:
    model = small_model("llama4_text", dtype=torch.bfloat16)
    with pytest.raises(qt.QToolkitError, match="Llama4TextExperts stays as it is"):
        qt.plan(model, qt.AbsMax(bits=8, format="compressed-tensors", exclude=("*experts*",)), device="cpu")
    assert qt.plan(model, qt.AbsMax(bits=8, format="compressed-tensors"), device="cpu").layers
