"""Headers of `.gguf` files with numbers and bytes changed: read, or refused in one line, in little memory.

Each seed is one damaged file; `make fuzz` tries fifty times as many others.
"""

import random
import resource
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import qtoolkit as qt
from qtoolkit.checkpoints.gguf_header import GgufHeader, parse_gguf
from qtoolkit.checkpoints.gguf_parser import HeaderParser
from qtoolkit.checkpoints.gguf_writing import write_gguf
from qtoolkit.formats.gguf.file_plan import plan_file
from tests.fuzz.mutations import FACTOR, ends_well
from tests.models.gguf_models import write_gguf as write_small
from tests.sample_models import random_model

pytestmark = pytest.mark.slow

SEEDS = 2000 * FACTOR
# So many of those that are read are planned too, which takes a thousand times as long.
PLANNED = 10 * FACTOR
NUMBERS = (0, 1, 2, 3, 5, 7, 8, 9, 13, 31, 32, 33, 64, 255, 2**16, 2**31 - 1, 2**31, 2**32 - 1)
LONG = (*NUMBERS, 2**40, 2**62, 2**63 - 1, 2**63, 2**64 - 1)
WIDTHS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, ...]:
    """A file of the `gguf` package, and one of ours."""
    folder = tmp_path_factory.mktemp("fuzz")
    write_small(folder / "a.gguf")
    model = random_model("qwen2")
    weights = model.state_dict()
    plan = plan_file(model.config, {name: tuple(weight.shape) for name, weight in weights.items()}, None, "Q8_0", {})
    planned = {tensor.entry.name: tensor for tensor in plan.tensors}
    list(write_gguf(folder / "b.gguf", plan.values, plan.entries, lambda one: planned[one.name].made(weights.get)))  # type: ignore[arg-type]
    return tuple((folder / name).read_bytes() for name in ("a.gguf", "b.gguf"))


def test_whatever_stands_in_a_header_it_is_read_or_refused(files: tuple[bytes, ...], tmp_path: Path) -> None:
    places = [tuple(fields(content)) for content in files]
    headers = [places_of_file[-1][0] for places_of_file in places]
    accepted = refused = 0
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for seed in range(SEEDS):
        chance = random.Random(f"{FACTOR} {seed}")  # noqa: S311 no secret
        which = chance.randrange(len(files))
        content = damaged(files[which], places[which], headers[which], chance)
        if ends_well(lambda: read(content, tmp_path)) is not None:  # noqa: B023 it is called at once
            refused += 1
            continue
        accepted += 1
        if accepted <= PLANNED:
            (tmp_path / "a.gguf").write_bytes(content)
            ends_well(lambda: qt.plan(tmp_path / "a.gguf", "absmax", machine="t4"))
    # Kilobytes on Linux; what plans take is left out by small numbers of them.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000
    assert accepted > SEEDS // 20
    assert refused > SEEDS // 3


def read(content: bytes, folder: Path) -> GgufHeader:
    header = parse_gguf(HeaderParser(folder / "a.gguf", content), len(content))
    assert all(place.start + place.nbytes <= len(content) for place in header.tensors.values())
    return header


def damaged(content: bytes, places: tuple[tuple[int, int], ...], end: int, chance: random.Random) -> bytes:
    """The file with one to three places changed: a number of the header, some bytes, or its length."""
    changed = bytearray(content)
    for _ in range(chance.randint(1, 3)):
        kind = chance.randrange(8)
        place = chance.randrange(end)
        if kind < 4:
            position, width = chance.choice(places)
            number = chance.choice(LONG if width == 8 else NUMBERS)
            changed[position : position + width] = struct.pack("<Q", number)[:width]
        elif kind == 4:
            changed[place : place + 1] = bytes([chance.randrange(256)])
        elif kind == 5:
            del changed[place : place + chance.choice((1, 4, 8, 100))]
        elif kind == 6:
            changed[place:place] = changed[place : place + chance.choice((1, 4, 8, 100))]
        else:
            del changed[chance.randrange(len(changed)) :]
            changed += bytes(chance.choice((0, 0, 24, 1000)))
    return bytes(changed)


def fields(content: bytes) -> Iterator[tuple[int, int]]:
    """Where each count, length, type, size, offset and number stands, and its width; the end of the header last."""

    def number(at: int, width: int) -> int:
        return int.from_bytes(content[at : at + width], "little")

    yield from ((0, 4), (4, 4), (8, 8), (16, 8))
    at = 24
    for _ in range(number(16, 8)):
        yield at, 8
        at += 8 + number(at, 8)
        kind = number(at, 4)
        yield at, 4
        at += 4
        count = 1
        if kind == 9:
            kind, count = number(at, 4), number(at + 4, 8)
            yield from ((at, 4), (at + 4, 8))
            at += 12
        for index in range(count):
            width = 8 if kind == 8 else WIDTHS[kind]
            if index < 2:
                yield at, width
            at += width + (number(at, 8) if kind == 8 else 0)
    for _ in range(number(8, 8)):
        yield at, 8
        at += 8 + number(at, 8)
        dimensions = number(at, 4)
        yield at, 4
        yield from ((at + 4 + 8 * index, 8) for index in range(dimensions))
        at += 4 + 8 * dimensions
        yield from ((at, 4), (at + 4, 8))
        at += 12
    yield at, 1


def test_the_files_themselves_are_sound(files: tuple[bytes, ...], tmp_path: Path) -> None:
    for content in files:
        assert read(content, tmp_path).tensors
        assert torch.tensor([width for _, width in fields(content)]).max() == 8
