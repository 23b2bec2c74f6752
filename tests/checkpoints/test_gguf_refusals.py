"""Headers of `.gguf` files that cannot be true, and files that are none: refused in one line, with no memory."""

import struct
import tracemalloc
from pathlib import Path

import pytest

from qtoolkit.checkpoints.gguf_header import read_gguf
from qtoolkit.checkpoints.gguf_parts import part_names, refuse_missing
from qtoolkit.errors import CheckpointError, SourceError, UnsupportedModelError

U32, TEXT, ARRAY, U64 = 4, 8, 9, 10


def text(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw)) + raw


def value(key: str | bytes, kind: int = U32, content: bytes = struct.pack("<I", 1)) -> bytes:
    return text(key) + struct.pack("<I", kind) + content


def array(key: str, kind: int, count: int, content: bytes = b"") -> bytes:
    return value(key, ARRAY, struct.pack("<IQ", kind, count) + content)


def tensor(name: str | bytes = "a", sizes: tuple[int, ...] = (32,), kind: int = 0, offset: int = 0) -> bytes:
    return text(name) + struct.pack(f"<I{len(sizes)}QIQ", len(sizes), *sizes, kind, offset)


NAMED = value("general.architecture", TEXT, text("llama"))


def file_of(
    values: tuple[bytes, ...] = (NAMED,), tensors: tuple[bytes, ...] = (tensor(),), data: int = 128, **counts: int
) -> bytes:
    """A file of these values and tensors, and so many bytes of data behind its padded header."""
    number = {"num_tensors": len(tensors), "num_values": len(values), "version": 3} | counts
    header = b"GGUF" + struct.pack("<IQQ", number["version"], number["num_tensors"], number["num_values"])
    header += b"".join((*values, *tensors))
    return header + bytes(-len(header) % 32 + data)


HUGE = 2**64 - 1
LIES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "does not end within 0 bytes"),
    "half a magic": (b"GG", "does not end within 2 bytes"),
    "something else": (b"PK\3\4" + bytes(40), "it begins with b'PK"),
    "a page": (b"<!DOCTYPE html>" + bytes(40), "it begins with b'<!DO'"),
    "version 4": (file_of(version=4), "it is of version 4, not 2 or 3"),
    "cut in the values": (file_of()[:30], "does not end within 30 bytes"),
    "cut in the tensors": (file_of()[:90], "does not end within 90 bytes"),
    "many tensors": (file_of(num_tensors=HUGE), "18446744073709551615 tensors"),
    "many values": (file_of(num_values=HUGE), "18446744073709551615 values"),
    "a long key": (file_of((struct.pack("<Q", HUGE), NAMED)), "a key has 18446744073709551615 bytes"),
    "an empty key": (file_of((value(""), NAMED)), "a key has 0 bytes"),
    "a long text": (file_of((NAMED, value("a.b", TEXT, struct.pack("<Q", HUGE)))), "does not end within"),
    "a key twice": (file_of((NAMED, value("a.b"), value("a.b"))), "it has the key 'a.b' twice"),
    "NUL in a key": (file_of((NAMED, value("a\0b"))), r"characters that no name has: 'a\x00b'"),
    "a key of no text": (file_of((NAMED, value(b"\xff\xfe"))), "a key is no UTF-8"),
    "an unknown type of value": (file_of((NAMED, value("a.b", 13))), "'a.b' has the type 13"),
    "a bool of 2": (file_of((NAMED, value("a.b", 7, b"\2"))), "'a.b' is a bool of the value 2"),
    "arrays in arrays": (file_of((NAMED, array("a.b", ARRAY, 1))), "'a.b' is an array of arrays"),
    "an array of nothing known": (file_of((NAMED, array("a.b", 99, 1))), "array of values of the type 99"),
    "a long array": (file_of((NAMED, array("a.b", U64, 2**61))), "entries, more than 3000000"),
    "many texts": (file_of((NAMED, array("a.b", TEXT, 2_000_000))), "does not end within"),
    "no architecture": (file_of((value("a.b"),)), "it has no general.architecture"),
    "an empty architecture": (file_of((value("general.architecture", TEXT, text("")),)), "no general.architecture"),
    "a number as architecture": (file_of((value("general.architecture"),)), "general.architecture is no text"),
    "an array as architecture": (
        file_of((array("general.architecture", TEXT, 1, text("llama")),)),
        "general.architecture is no text",
    ),
    "a text as block count": (file_of((NAMED, value("llama.block_count", TEXT, text("2")))), "is no integer"),
    "a float as block count": (file_of((NAMED, value("llama.block_count", 6, bytes(4)))), "is no integer"),
    "no alignment": (file_of((NAMED, value("general.alignment", U32, bytes(4)))), "general.alignment is 0"),
    "alignment of 24": (
        file_of((NAMED, value("general.alignment", U32, struct.pack("<I", 24)))),
        "general.alignment is 24, no power of two",
    ),
    "a huge alignment": (
        file_of((NAMED, value("general.alignment", U64, struct.pack("<Q", 2**63)))),
        "no power of two up to 65536",
    ),
    "alignment as a text": (file_of((NAMED, value("general.alignment", TEXT, text("32")))), "is no integer"),
    "a tensor twice": (file_of(tensors=(tensor(), tensor(offset=128)), data=256), "it has the tensor 'a' twice"),
    "NUL in a tensor's name": (file_of(tensors=(tensor("a\0"),)), "characters that no name has"),
    "a tensor of no name": (file_of(tensors=(tensor(""),)), "the name of a tensor has 0 bytes"),
    "a long name": (file_of(tensors=(tensor("a" * 64),)), "the name of a tensor has 64 bytes"),
    "no dimensions": (file_of(tensors=(tensor(sizes=()),)), "has 0 dimensions"),
    "five dimensions": (file_of(tensors=(tensor(sizes=(32, 1, 1, 1, 1)),)), "has 5 dimensions"),
    "a size of 0": (file_of(tensors=(tensor(sizes=(32, 0)),)), "has the sizes [32, 0]"),
    "sizes that overflow": (file_of(tensors=(tensor(sizes=(2**32, 2**32)),)), "has the sizes"),
    "sizes that overflow to 0": (file_of(tensors=(tensor(sizes=(2**63, 2)),)), "has the sizes"),
    "half a block": (file_of(tensors=(tensor(sizes=(48,), kind=8),)), "has rows of 48, no whole blocks of Q8_0"),
    "an offset beyond the file": (file_of(tensors=(tensor(offset=2**40),)), "and the file has"),
    "an offset that overflows": (file_of(tensors=(tensor(offset=2**64 - 32),)), "and the file has"),
    "an offset that is not aligned": (file_of(tensors=(tensor(offset=4),), data=160), "no multiple of 32"),
    "data that is cut": (file_of(data=127), "ends at byte 256, and the file has 255"),
    "tensors that overlap": (
        file_of(tensors=(tensor(), tensor("b", offset=96)), data=256),
        "the tensors 'a' and 'b' overlap",
    ),
    "tensors in one place": (file_of(tensors=(tensor(), tensor("b")), data=256), "overlap"),
}
OTHERS: dict[str, tuple[bytes, str]] = {
    **{
        f"GGML, {magic}": (bytes(reversed(magic.encode())) + bytes(60), f"before August 2023 ({magic}, not GGUF)")
        for magic in ("ggml", "ggmf", "ggjt", "ggla")
    },
    "GGML spelled forward": (b"ggjt" + bytes(60), "name the full-precision model, or a .gguf file of it"),
    "big-endian": (b"GGUF" + struct.pack(">IQQ", 3, 1, 1) + bytes(60), "is a big-endian GGUF file: make it anew"),
    "version 1": (b"GGUF" + struct.pack("<III", 1, 1, 1) + bytes(60), "of version 1, of August 2023"),
    "a type that was removed": (
        file_of(tensors=(tensor(kind=31),)),
        "holds 'a' as the type Q4_0_4_4, which llama.cpp has no longer",
    ),
    "a type of the future": (file_of(tensors=(tensor(kind=99),)), "holds 'a' as the type 99, which is not known here"),
}


def refusal(content: bytes, folder: Path) -> SourceError:
    (folder / "a.gguf").write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(SourceError) as caught:
            read_gguf(folder / "a.gguf")
        assert tracemalloc.get_traced_memory()[1] < 300_000
    finally:
        tracemalloc.stop()
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 600
    return caught.value


@pytest.mark.once
@pytest.mark.parametrize("lie", LIES)
def test_a_header_that_cannot_be_true_is_refused(lie: str, tmp_path: Path) -> None:
    content, told = LIES[lie]
    error = refusal(content, tmp_path)
    assert type(error) is CheckpointError
    assert told in str(error)
    assert str(error).endswith("name another file, or download it again")


@pytest.mark.once
@pytest.mark.parametrize("other", OTHERS)
def test_what_nothing_reads_any_more_is_named_with_what_to_do(other: str, tmp_path: Path) -> None:
    content, told = OTHERS[other]
    error = refusal(content, tmp_path)
    assert type(error) is UnsupportedModelError
    assert told in str(error)


@pytest.mark.once
@pytest.mark.parametrize("alignment", [None, 8, 64, 65536])
def test_a_sound_header_is_read(alignment: int | None, tmp_path: Path) -> None:
    values = (NAMED,) if alignment is None else (NAMED, value("general.alignment", U32, struct.pack("<I", alignment)))
    lists = array("llama.attention.head_count", U32, 2, struct.pack("<II", 4, 2))
    first, second = tensor("b", (2, 3), 1), tensor("a", (32, 2), 8, offset=65536)
    content = file_of((*values, lists), (first, second), data=200_000)
    (tmp_path / "a.gguf").write_bytes(content)
    header = read_gguf(tmp_path / "a.gguf")
    assert (header.architecture, header.config) == ("llama", {"num_attention_heads": [4, 2]})
    places = {name: (place.shape, place.type_.name, place.nbytes) for name, place in header.tensors.items()}
    assert places == {"b": ((3, 2), "F16", 12), "a": ((2, 32), "Q8_0", 68)}
    assert header.tensors["a"].start - header.tensors["b"].start == 65536
    assert header.tensors["b"].start % (alignment or 32) == 0


@pytest.mark.once
@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("m.gguf", ("m.gguf",)),
        ("m-00002-of-00002.gguf", ("m-00001-of-00002.gguf", "m-00002-of-00002.gguf")),
        ("m-00003-of-00002.gguf", ("m-00003-of-00002.gguf",)),
        ("m-00001-of-00001.gguf", ("m-00001-of-00001.gguf",)),
        ("m-2-of-3.gguf", ("m-2-of-3.gguf",)),
    ],
)
def test_parts_are_known_by_their_names(name: str, parts: tuple[str, ...]) -> None:
    assert part_names(name) == parts


@pytest.mark.once
def test_missing_parts_are_counted() -> None:
    with pytest.raises(CheckpointError, match=r"m-00002-of-00004\.gguf is missing and 1 more: get all of them"):
        refuse_missing("m-00001-of-00004.gguf", ["m-00001-of-00004.gguf", "m-00003-of-00004.gguf"])
