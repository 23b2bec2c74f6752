"""Codes of 2, 3, 4 and 8 bits in 32-bit words."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qtoolkit.tensor import int32_packing
from qtoolkit.tensor.int32_packing import pack_words, unpack_words

pytestmark = pytest.mark.once

every_width = pytest.mark.parametrize("bits", [2, 3, 4, 8], ids=lambda bits: f"{bits} bits")


def random_codes(bits: int, rows: int, columns: int) -> torch.Tensor:
    return torch.randint(2**bits, (rows, columns), dtype=torch.uint8)


def words_of_column(codes: list[int], bits: int) -> list[int]:
    """Bit by bit: code i of a column is bits `bits * i` and on of one long number, cut in signed words."""
    number = sum(code << bits * index for index, code in enumerate(codes))
    cut = [(number >> 32 * word) & 0xFFFFFFFF for word in range(len(codes) * bits // 32)]
    return [word - 2**32 if word >= 2**31 else word for word in cut]


@every_width
@pytest.mark.parametrize("columns", [1, 7])
def test_packed_as_one_string_of_bits(bits: int, columns: int) -> None:
    codes = random_codes(bits, 96, columns)
    packed = pack_words(codes, bits)
    assert packed.dtype == torch.int32
    assert packed.T.tolist() == [words_of_column(column, bits) for column in codes.T.tolist()]


@every_width
def test_chunks_make_no_difference(bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    codes = random_codes(bits, 32 * 11, 5)
    whole = pack_words(codes, bits)
    monkeypatch.setattr(int32_packing, "_CHUNK_WORDS", 17)
    assert torch.equal(pack_words(codes, bits), whole)
    assert torch.equal(unpack_words(whole, bits), codes)


@given(st.sampled_from([2, 3, 4, 8]), st.integers(0, 5), st.integers(0, 9), st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=60)
def test_round_trip(bits: int, blocks: int, columns: int, seed: int) -> None:
    codes = torch.randint(2**bits, (32 * blocks, columns), generator=torch.Generator().manual_seed(seed)).byte()
    assert torch.equal(unpack_words(pack_words(codes, bits), bits), codes)


@every_width
def test_any_words_come_back(bits: int) -> None:
    packed = torch.randint(-(2**31), 2**31, (12, 3), dtype=torch.int32)
    assert torch.equal(pack_words(unpack_words(packed, bits), bits), packed)


@every_width
def test_transposed_codes(bits: int) -> None:
    codes = random_codes(bits, 6, 64).T
    packed = pack_words(codes, bits)
    assert torch.equal(packed, pack_words(codes.contiguous(), bits))
    assert torch.equal(unpack_words(packed.T.contiguous().T, bits), codes)


@pytest.mark.parametrize(
    ("codes", "bits", "message"),
    [
        (torch.full((16, 1), 4, dtype=torch.uint8), 2, "below 4, got 4"),
        (torch.full((32, 1), 8, dtype=torch.uint8), 3, "below 8, got 8"),
        (torch.full((8, 1), 16, dtype=torch.uint8), 4, "below 16, got 16"),
        (torch.zeros(24, 1, dtype=torch.uint8), 3, "multiples of 32, got 24"),
        (torch.zeros(6, 1, dtype=torch.uint8), 8, "multiples of 4, got 6"),
        (torch.zeros(8, dtype=torch.uint8), 4, "matrix"),
        (torch.zeros(8, 1, dtype=torch.int32), 4, "uint8"),
        (torch.zeros(32, 1, dtype=torch.uint8), 9, "got 9"),
    ],
    ids=["2 bits", "3 bits", "4 bits", "3-bit words", "8-bit words", "a vector", "another type", "9 bits"],
)
def test_codes_that_do_not_fit(codes: torch.Tensor, bits: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pack_words(codes, bits)


@pytest.mark.parametrize(
    ("packed", "bits", "message"),
    [
        (torch.zeros(4, 1, dtype=torch.int32), 3, "multiples of 3"),
        (torch.zeros(4, 1, dtype=torch.int64), 4, "int64"),
        (torch.zeros(4, dtype=torch.int32), 4, "matrix"),
        (torch.zeros(4, 1, dtype=torch.int32), 9, "got 9"),
    ],
    ids=["3-bit words", "another type", "a vector", "9 bits"],
)
def test_words_that_hold_no_codes(packed: torch.Tensor, bits: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        unpack_words(packed, bits)
