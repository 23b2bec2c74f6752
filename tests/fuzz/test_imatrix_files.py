"""Importance matrices with bytes changed or the end cut off: read, or refused in one line."""

import random
from pathlib import Path

import pytest

from qtoolkit.checkpoints.imatrix import read_imatrix
from tests.checkpoints.test_imatrix import EXPERTS, Q, dat, write_with_gguf
from tests.fuzz.mutations import FACTOR, ends_well

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("kind", ["gguf", "dat"])
def test_whatever_stands_in_an_imatrix_it_is_read_or_refused(tmp_path: Path, kind: str) -> None:
    file = tmp_path / "imatrix"
    whole = dat([(Q, 2, [1.0] * 4), (EXPERTS, 1, [2.0] * 12)])
    if kind == "gguf":
        whole = write_with_gguf(file).read_bytes()
    refused = 0
    for seed in range(200 * FACTOR):
        chance = random.Random(f"{FACTOR} {seed}")  # noqa: S311 no secret
        content = bytearray(whole)
        for _ in range(chance.randint(1, 3)):
            content[chance.randrange(len(content))] = chance.choice((0, 1, 127, 128, 255))
        file.write_bytes(content[: chance.choice((len(content), chance.randrange(len(content))))])
        refused += ends_well(lambda: read_values(file)) is not None
    assert 50 * FACTOR < refused < 200 * FACTOR


def read_values(file: Path) -> None:
    imatrix = read_imatrix(file)
    assert all(imatrix[name].isfinite().all() for name in imatrix)
