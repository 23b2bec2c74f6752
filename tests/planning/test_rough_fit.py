"""By its size alone: a model of 16 bits needs less than half of it for four bits, a quantized one all of it."""

import pytest

from qtoolkit.planning.rough_fit import roughly_fits


@pytest.mark.parametrize(
    ("size", "room", "quantized", "fits"),
    [
        (2_200_000_000, 2_000_000_000, False, True),
        (2_200_000_000, 2_000_000_000, True, False),
        (16_000_000_000, 12_700_000_000, False, True),
        (30_000_000_000, 12_700_000_000, False, False),
        (0, 600_000_000, True, False),
    ],
    ids=["1.1 billion in 2 GB", "loaded whole", "8 billion on Colab", "15 billion on Colab", "not even torch"],
)
def test_it_is_told_from_size_and_room(size: int, room: int, quantized: bool, fits: bool) -> None:
    assert roughly_fits(size, room, quantized=quantized) is fits
