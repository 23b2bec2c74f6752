"""Headers of safetensors files: ours against the reference reader, on sound, mutated and random files."""

import json
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open

from qtoolkit.checkpoints.safetensors import DTYPES, read_tensors
from qtoolkit.errors import CheckpointError

Entry = dict[str, Any]


def pack(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    """A file with this header: JSON values, or text, or bytes as they are."""
    raw = header if isinstance(header, bytes | str) else json.dumps(header)
    raw = raw.encode("utf-8", "surrogatepass") if isinstance(raw, str) else raw
    return struct.pack("<Q", len(raw) if length is None else length) + raw + data


def entry(shape: object, start: object, end: object, dtype: object = "U8") -> Entry:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def reference(file: Path) -> dict[str, torch.Tensor] | None:
    """What the reference reader makes of a file; None when it refuses."""
    try:
        with safe_open(file, "pt") as opened:
            return {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 it is no dict
    except (SafetensorError, TypeError, RuntimeError):
        return None


def ours(file: Path) -> dict[str, torch.Tensor] | None:
    try:
        tensors = read_tensors(file)
    except CheckpointError as error:
        message = str(error)
    else:
        return {name: tensor[...] for name, tensor in tensors.items()}
    assert "\n" not in message
    assert str(file) in message
    assert len(message) < len(str(file)) + 400
    return None


def compare(file: Path, content: bytes) -> dict[str, torch.Tensor] | None:
    """Read a file with both; what we take must be what the reference reader takes."""
    file.write_bytes(content)
    found, expected = ours(file), reference(file)
    if found is None:
        return None
    assert expected is not None, "the reference reader refuses this file, and ours does not"
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        assert found[name].shape == tensor.shape
        assert raw_bytes(found[name]) == raw_bytes(tensor)
    return found


def raw_bytes(tensor: torch.Tensor) -> bytes:
    return tensor.reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""


@st.composite
def sound_files(draw: st.DrawFn) -> tuple[dict[str, Entry], bytes]:
    """The header and the data of a file with up to four tensors, in any order of names."""
    header: dict[str, Entry] = {}
    position = 0
    for name in draw(st.lists(st.text(max_size=5), unique=True, max_size=4)):
        dtype = draw(st.sampled_from(list(DTYPES)))
        shape = draw(st.lists(st.integers(0, 3), max_size=3))
        size = torch.empty(shape, dtype=DTYPES[dtype]).nbytes
        header[name] = entry(shape, position, position + size, dtype)
        position += size
    names = draw(st.permutations(list(header)))
    return {name: header[name] for name in names}, draw(st.binary(min_size=position, max_size=position))


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("headers") / "model.safetensors"


@settings(deadline=None)
@given(sound_files(), st.sampled_from([None, {}, {"format": "pt", "": "é"}]), st.sampled_from(["", " ", "\n\t  "]))
def test_a_sound_file_is_read_as_the_reference_reads_it(
    file: Path, sound: tuple[dict[str, Entry], bytes], metadata: object, padding: str
) -> None:
    header, data = sound
    header.pop("__metadata__", None)
    size = max((values["data_offsets"][1] for values in header.values()), default=0)
    content = pack(json.dumps({"__metadata__": metadata, **header}) + padding, data[:size])
    assert compare(file, content) is not None


# Numbers, and things that look like numbers, at the edges of what a size can be.
NUMBERS: st.SearchStrategy[Any] = st.sampled_from(
    [-1, 0, 1, 2, 3, 7, 8, 2**31, 2**62, 2**63 - 1, 2**63, 2**64 - 1, 2**64, 10**30, 1.0, 1e300, True, False, None, "1"]
) | st.integers(-5, 60)
VALUES = NUMBERS | st.lists(NUMBERS, max_size=4) | st.dictionaries(st.text(max_size=3), NUMBERS, max_size=2)
KEYS = ("dtype", "shape", "data_offsets", "extra")


def change_value(draw: st.DrawFn, header: dict[str, Any]) -> None:
    target = header[draw(st.sampled_from(list(header)))]
    key = draw(st.sampled_from(KEYS))
    target[key] = draw(st.sampled_from([*DTYPES, "F4", "U24", "f32"])) if key == "dtype" else draw(VALUES)


def shift_offset(draw: st.DrawFn, header: dict[str, Any]) -> None:
    offsets = header[draw(st.sampled_from(list(header)))].get("data_offsets")
    if isinstance(offsets, list) and len(offsets) == 2 and all(type(offset) is int for offset in offsets):
        for index in draw(st.sampled_from([(0,), (1,), (0, 1)])):
            offsets[index] += draw(st.integers(-9, 9))


def remove_key(draw: st.DrawFn, header: dict[str, Any]) -> None:
    header[draw(st.sampled_from(list(header)))].pop(draw(st.sampled_from(KEYS)), None)


def add_metadata(draw: st.DrawFn, header: dict[str, Any]) -> None:
    header["__metadata__"] = draw(VALUES)


PIECES = ("", " ", ",", "-", "0", ".0", "e0", "NaN", "[", "{", '"', "\\ud800", "\0", "é")


@st.composite
def mutated_files(draw: st.DrawFn) -> bytes:
    """A sound file whose header, text or length was changed in a few places."""
    header, data = draw(sound_files().filter(lambda sound: bool(sound[0])))
    for change in draw(st.lists(st.sampled_from([change_value, shift_offset, remove_key]), max_size=2)):
        change(draw, header)
    if draw(st.booleans()):
        add_metadata(draw, header)
    text = json.dumps(header, ensure_ascii=draw(st.booleans()))
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(text)))
        text = text[:at] + draw(st.sampled_from(PIECES)) + text[at + draw(st.integers(0, 2)) :]
    content = pack(text, data)
    cut = draw(st.sampled_from([0, 0, 0, 1, 5, 100]))
    return content[: len(content) - cut] + draw(st.sampled_from([b"", b"", b"\0"]))


@settings(deadline=None)
@given(mutated_files())
def test_a_mutated_file_is_refused_or_read_as_the_reference_reads_it(file: Path, content: bytes) -> None:
    compare(file, content)


@settings(deadline=None)
@given(st.binary(max_size=200) | st.binary(max_size=60).map(pack))
@example(b"")
@example(b"\x02\0\0\0\0\0\0\0")
@example(b"\xff" * 8 + b"{}")
def test_random_bytes_are_refused_or_read_as_the_reference_reads_them(file: Path, content: bytes) -> None:
    compare(file, content)


ONE = entry([1], 0, 1)
DEEP = "[" * 100_000 + "]" * 100_000


@pytest.mark.parametrize(
    ("content", "why"),
    [
        pytest.param(pack({"a": entry([9], 0, 9)}, b"12345678"), "end at byte", id="offsets past the end"),
        pytest.param(pack({"a": entry([1], 2**62, 2**62 + 1)}, b"1"), "starts at byte", id="offsets far past the end"),
        pytest.param(pack({"a": entry([2], 0, 2), "b": entry([2], 1, 3)}, b"123"), "starts at byte", id="overlap"),
        pytest.param(pack({"a": ONE, "b": ONE}, b"1"), "starts at byte", id="the same bytes twice"),
        pytest.param(pack({"a": ONE, "b": entry([1], 2, 3)}, b"123"), "starts at byte", id="a hole"),
        pytest.param(pack({"a": ONE}, b"12"), "end at byte", id="surplus bytes"),
        pytest.param(pack({"a": entry([1], 1, 0)}, b"1"), "needs 1 bytes", id="end before start"),
        pytest.param(pack({"a": entry([3], 0, 1)}, b"1"), "needs 3 bytes", id="shape and length differ"),
        pytest.param(pack({}, length=2**63), "is said to take", id="huge length"),
        pytest.param(pack({}, length=3), "is said to take", id="length past the end"),
        pytest.param(pack(b"", length=0), "is said to take", id="no header"),
        pytest.param(pack('{"a":' + DEEP + "}"), "not valid", id="deep nesting"),
        pytest.param(pack("[]"), "no JSON object|not a JSON object", id="an array"),
        pytest.param(pack('{"a":NaN}'), "NaN is no size", id="NaN"),
        pytest.param(pack('{"a":-Infinity}'), "-Infinity is no size", id="infinity"),
        pytest.param(pack('{"a":' + "9" * 5000 + "}"), "is no size", id="a number of 5000 digits"),
        pytest.param(pack({"a": entry([-1, -1], 0, 1)}, b"1"), "-1 is no size", id="negative sizes"),
        pytest.param(pack('{"a":{"dtype":"U8","shape":[-0],"data_offsets":[0,0]}}'), "-0 is no size", id="minus 0"),
        pytest.param(pack({"a": entry([True], 0, 1)}, b"1"), "no sound shape", id="a bool as size"),
        pytest.param(pack({"a": entry([1.0], 0, 1)}, b"1"), "no sound shape", id="a float as size"),
        pytest.param(pack({"a": entry([2**63], 0, 1)}, b"1"), "no sound shape", id="a size of 2**63"),
        pytest.param(pack({"a": entry([1] * 65, 0, 1)}, b"1"), "no sound shape", id="65 dimensions"),
        pytest.param(pack({"a": entry([2**62] * 60, 0, 1)}, b"1"), "no memory holds", id="a product of 1,000 digits"),
        pytest.param(pack({"a": entry([0, 2**62, 2**62], 0, 0)}), "no memory", id="empty, with strides too large"),
        pytest.param(pack({"a": entry("1", 0, 1)}, b"1"), "no sound shape", id="a text as shape"),
        pytest.param(pack({"a": {"dtype": "U8"}}), "has not the keys", id="keys missing"),
        pytest.param(pack({"a": ONE | {"x": 1}}, b"1"), "has not the keys", id="an unknown key"),
        pytest.param(pack({"a": [1]}), "has not the keys", id="an entry that is no object"),
        pytest.param(pack({"a": entry([1], 0, 1, "F4")}, b"1"), "has the type 'F4'", id="an unknown type"),
        pytest.param(pack({"a": entry([1], 0, 1, ["U8"])}, b"1"), "has the type", id="a type that is no text"),
        pytest.param(pack({"a" * 10_000: entry([1], 0, 1, "x" * 10_000)}, b"1"), "known are", id="endless names"),
        pytest.param(pack('{"a":1,"a":1}', b"1"), "twice", id="a name twice"),
        pytest.param(pack({"\ud800": ONE}, b"1"), "surrogates", id="a lone surrogate"),
        pytest.param(pack(b'{"\xff":1}'), "not valid", id="no UTF-8"),
        pytest.param(pack("{}".encode("utf-16")), "not valid", id="UTF-16"),
        pytest.param(pack(b"\xef\xbb\xbf{}"), "not valid", id="a byte order mark"),
        pytest.param(pack({"__metadata__": {"a": 1}}), "__metadata__", id="a number in the metadata"),
        pytest.param(pack({"__metadata__": []}), "__metadata__", id="metadata that is no object"),
    ],
)
def test_a_lying_header_is_refused_and_the_reason_told(file: Path, content: bytes, why: str) -> None:
    assert compare(file, content) is None
    with pytest.raises(CheckpointError, match=f"damaged: .*({why}).*; save it anew, or copy it from where"):
        read_tensors(file)


def test_a_header_larger_than_the_limit_is_refused_unread(file: Path) -> None:
    with file.open("wb") as sparse:
        sparse.write(struct.pack("<Q", 10**12))
        sparse.truncate(2 * 10**12)
    with pytest.raises(CheckpointError, match="is said to take 1000000000000 bytes"):
        read_tensors(file)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent.safetensors"):
        with pytest.raises(CheckpointError, match="cannot be read"):
            read_tensors(path)
