"""Two 4-bit codes in a byte, and back."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qtoolkit.tensor.int4_packing import pack_int4, unpack_int4

pytestmark = pytest.mark.once

CODES = range(-8, 8)


def test_every_pair_of_codes_in_its_place() -> None:
    pairs = torch.tensor([[low, high] for low in CODES for high in CODES], dtype=torch.int8)
    packed = pack_int4(pairs)
    assert packed.dtype == torch.uint8
    assert packed.shape == (256, 1)
    # The first code is the low nibble; % 16 is two's complement of four bits.
    assert packed.flatten().tolist() == [low % 16 + 16 * (high % 16) for low in CODES for high in CODES]
    assert torch.equal(unpack_int4(packed), pairs)


@given(st.lists(st.integers(1, 5), max_size=2), st.integers(0, 9), st.randoms(use_true_random=False))
def test_round_trip_for_any_shape(leading: list[int], pairs: int, random: object) -> None:
    generator = torch.Generator().manual_seed(random.getrandbits(32))  # type: ignore[attr-defined]
    codes = torch.randint(-8, 8, (*leading, 2 * pairs), generator=generator, dtype=torch.int8)
    packed = pack_int4(codes)
    assert packed.shape == (*leading, pairs)
    back = unpack_int4(packed)
    assert back.dtype == torch.int8
    assert torch.equal(back, codes)


def test_strided_tensors() -> None:
    codes = torch.randint(-8, 8, (6, 4), dtype=torch.int8)
    assert torch.equal(pack_int4(codes.T), pack_int4(codes.T.contiguous()))
    packed = pack_int4(codes)
    assert torch.equal(unpack_int4(packed.T), unpack_int4(packed.T.contiguous()))


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (torch.zeros(2, 3, dtype=torch.int8), r"the last dimension must be even, .*, got shape \[2, 3\]"),
        (torch.tensor([-8, 8], dtype=torch.int8), r"4-bit codes must lie in \[-8, 7\], got -8 to 8"),
        (torch.tensor([-9, 0], dtype=torch.int8), r"4-bit codes must lie in \[-8, 7\], got -9 to 0"),
        (torch.zeros(2), r"codes must be torch.int8, got torch.float32"),
    ],
    ids=["odd", "too large", "too small", "float"],
)
def test_what_cannot_be_packed_is_refused(codes: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        pack_int4(codes)
