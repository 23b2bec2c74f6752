"""Formats that pack along the inputs hold the same words, so that a conversion copies them."""

from typing import Any

import pytest
import torch

from qtoolkit.formats.compressed_tensors.tensors import PackedTensors
from qtoolkit.formats.gptq.tensors import GPTQTensors
from qtoolkit.formats.mlx.tensors import AffineTensors
from qtoolkit.formats.recoding import packed_words
from qtoolkit.tensor.int32_packing import pack_words

KINDS = [
    *((PackedTensors, bits) for bits in range(2, 9)),
    *((GPTQTensors, bits) for bits in (2, 3, 4, 8)),
    *((AffineTensors, bits) for bits in (2, 3, 4, 5, 6, 8)),
]


def stored_codes(kind: Any, bits: int, inputs: int) -> tuple[torch.Tensor, Any]:
    """Random codes [in, 32], and what a format makes of the tensors that it stores them in."""
    codes = torch.randint(2**bits, (inputs, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(bits))
    stored = kind(32, inputs, bits=bits, group_size=32)
    groups = torch.arange(inputs) // 32
    zeros = torch.full((inputs // 32, 32), 2 ** (bits - 1))
    return codes, stored.decode(stored.store(codes, torch.ones(inputs // 32, 32), zeros, groups))


@pytest.mark.parametrize(("kind", "bits"), KINDS)
def test_words_are_those_of_the_codes(kind: Any, bits: int) -> None:
    codes, stored = stored_codes(kind, bits, 64)
    assert torch.equal(stored.words(), pack_words(codes, bits))
    assert packed_words(stored).data_ptr() == stored.words().data_ptr()


def test_a_row_that_ends_within_a_word_has_none() -> None:
    stored = PackedTensors(32, 36, bits=5, group_size=-1)
    codes = torch.ones(36, 32, dtype=torch.uint8)
    tensors = stored.store(codes, torch.ones(1, 32), torch.full((1, 32), 16), torch.zeros(36))
    assert stored.decode(tensors).words() is None
