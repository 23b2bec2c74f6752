"""Hubs, and tokenizers with and without something that they put before every text."""

from pathlib import Path
from typing import Any

import pytest
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer

from tests.fake_hub.fixture import dataset_hub, hub

__all__ = ["dataset_hub", "hub"]


@pytest.fixture(scope="module")
def tokenizer(smollm2: Path) -> Any:
    return AutoTokenizer.from_pretrained(smollm2)


@pytest.fixture
def with_bos(smollm2: Path) -> Any:
    """A tokenizer that begins every text with a token, as Llama's does."""
    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    special = [("<|im_start|>", tokenizer.bos_token_id)]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing("<|im_start|> $A", special_tokens=special)
    return tokenizer
