"""Importance matrices: both kinds of llama.cpp's files are read as it does, and written; damaged ones are refused."""

import struct
from collections.abc import Sequence
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch

from qtoolkit.checkpoints.gguf_header import read_gguf
from qtoolkit.checkpoints.imatrix import read_imatrix, write_imatrix
from qtoolkit.errors import CheckpointError, UnsupportedModelError

Q, EXPERTS = "blk.0.attn_q.weight", "blk.0.ffn_up_exps.weight"
SUMS = {Q: np.array([[3, 6, 0, 12]], np.float32), EXPERTS: np.arange(12, dtype=np.float32).reshape(3, 4)}
COUNTS = {Q: [3.0], EXPERTS: [2.0, 0.0, 4.0]}


def write_with_gguf(file: Path, **changes: object) -> Path:
    """Write one as `IMatrixCollector::save_imatrix` does, by the `gguf` package, with other values or tensors."""
    writer = gguf.GGUFWriter(file, "")
    writer.kv_data[0].clear()  # no general.architecture
    values = {"type": "imatrix", "datasets": ["/home/ann/wiki.txt", "code.txt"], "chunk_count": 7, "chunk_size": 512}
    values |= changes
    if values["type"] is not None:
        writer.add_string("general.type", str(values["type"]))
    if values["datasets"] is not None:
        writer.add_array("imatrix.datasets", values["datasets"])
    writer.add_uint32("imatrix.chunk_count", int(str(values["chunk_count"])))
    writer.add_uint32("imatrix.chunk_size", int(str(values["chunk_size"])))
    tensors = {}
    for name, sums in SUMS.items():
        tensors[f"{name}.in_sum2"] = sums
        tensors[f"{name}.counts"] = np.array(COUNTS[name], np.float32)[:, None]
    for name, tensor in {**tensors, **{key: one for key, one in changes.items() if "." in key}}.items():
        if isinstance(tensor, np.ndarray):
            writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def dat(entries: Sequence[tuple[str, int, list[float]]], end: bytes = struct.pack("<ii", 7, 8) + b"wiki.txt") -> bytes:
    """Return one as `IMatrixCollector::save_imatrix_legacy` writes it."""
    content = struct.pack("<i", len(entries))
    for name, calls, sums in entries:
        content += (
            struct.pack("<i", len(name)) + name.encode() + struct.pack(f"<ii{len(sums)}f", calls, len(sums), *sums)
        )
    return content + end


def test_the_newer_kind_is_read_as_llama_cpp_does(tmp_path: Path) -> None:
    """Sums by counts; an expert that no token chose weighs all its inputs alike; of texts, the names alone."""
    imatrix = read_imatrix(write_with_gguf(tmp_path / "imatrix.gguf"))
    assert sorted(imatrix) == [Q, EXPERTS]
    assert imatrix[Q].tolist() == [1, 2, 0, 4]
    assert imatrix[EXPERTS].tolist() == [[0, 0.5, 1, 1.5], [1, 1, 1, 1], [2, 2.25, 2.5, 2.75]]
    assert imatrix[Q].dtype == torch.float32
    assert [imatrix.unseen(name) for name in (Q, EXPERTS)] == [0, 1]
    assert (imatrix.datasets, imatrix.chunk_count, imatrix.chunk_size) == (("wiki.txt", "code.txt"), 7, 512)


@pytest.mark.parametrize("end", [True, False], ids=["with the text", "older still"])
def test_the_older_kind_is_read_as_llama_cpp_does(tmp_path: Path, *, end: bool) -> None:
    """Sums by calls; experts stand in one row; sums of no calls are taken as they are."""
    entries = [(Q, 2, [2.0, 4.0, 0.0, 8.0]), (EXPERTS, 0, [float(number) for number in range(12)])]
    (tmp_path / "imatrix.dat").write_bytes(dat(entries, *([] if end else [b""])))
    imatrix = read_imatrix(tmp_path / "imatrix.dat")
    assert imatrix[Q].tolist() == [1, 2, 0, 4]
    assert imatrix[EXPERTS].tolist() == [*range(12)]
    assert (imatrix.datasets, imatrix.chunk_count) == ((("wiki.txt",), 7) if end else ((), 0))


def test_a_written_one_is_that_of_llama_imatrix(tmp_path: Path) -> None:
    """Compared with what the `gguf` package writes: names in order, shapes, types, values and keys; and read again."""
    squares = {
        EXPERTS: torch.tensor([[0, 1, 2, 3], [0, 0, 0, 0], [8, 9, 10, 11]]),
        Q: torch.tensor([3, 6, 0, 12]),
    }
    texts = ["/home/ann/wiki.txt", "code.txt"]
    ours = tmp_path / "ours.gguf"
    counts = {Q: [3], EXPERTS: [2, 0, 4]}
    write_imatrix(ours, squares, counts, datasets=texts, chunk_count=7, chunk_size=512)
    sums = SUMS[EXPERTS].copy()
    sums[1] = 0
    theirs = write_with_gguf(tmp_path / "theirs.gguf", **{f"{EXPERTS}.in_sum2": sums})
    first, second = gguf.GGUFReader(ours), gguf.GGUFReader(theirs)
    for one, other in zip(first.tensors, second.tensors, strict=True):
        assert (one.name, one.shape.tolist(), one.tensor_type) == (other.name, other.shape.tolist(), other.tensor_type)
        assert np.array_equal(one.data, other.data)
    assert [(key, field.contents(), field.types) for key, field in first.fields.items() if "." in key[:8]] == [
        (key, field.contents(), field.types) for key, field in second.fields.items() if "." in key[:8]
    ]
    again = read_imatrix(ours)
    assert again[EXPERTS].tolist() == [[0, 0.5, 1, 1.5], [1, 1, 1, 1], [2, 2.25, 2.5, 2.75]]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"datasets": None}, "its imatrix.datasets is None"),
        ({"chunk_count": 2**31}, "its imatrix.chunk_count is 2147483648"),
        ({f"{Q}.counts": None}, "has no sums and counts in F32"),
        ({f"{Q}.in_sum2": None}, "belongs to no sums of squares"),
        ({f"{Q}.in_sum2": SUMS[Q].astype(np.float16)}, "has no sums and counts in F32"),
        ({f"{Q}.counts": np.ones((3, 1), np.float32)}, "has 3 counts for 4 sums"),
        ({f"{Q}.counts": np.full((1, 1), -1, np.float32)}, "has a count that is none"),
        ({f"{Q}.counts": np.full((1, 1), np.nan, np.float32)}, "has a count that is none"),
        ({"another.weight": SUMS[Q]}, "'another.weight' belongs to no sums"),
    ],
)
def test_a_file_that_lies_is_refused(tmp_path: Path, changes: dict[str, object], said: str) -> None:
    file = write_with_gguf(tmp_path / "imatrix.gguf", **changes)
    with pytest.raises(CheckpointError, match=said):
        read_imatrix(file)


@pytest.mark.parametrize("number", [-1.0, np.nan, np.inf, 1e31])
def test_numbers_that_are_no_mean_squares_are_refused(tmp_path: Path, number: float) -> None:
    """They would make NaN of a whole block."""
    sums = SUMS[Q].copy()
    sums[0, 1] = number
    imatrix = read_imatrix(write_with_gguf(tmp_path / "imatrix.gguf", **{f"{Q}.in_sum2": sums}))
    with pytest.raises(CheckpointError, match=f"'{Q}' has mean squares below 0"):
        imatrix[Q]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "ends within an entry"),
        (b"\x00\x00\x00\x00", "neither a GGUF file nor a .dat file"),
        (b"PK\x03\x04 a zip", "neither a GGUF file nor a .dat file"),
        (dat([(Q, 1, [1.0])])[:30], "ends within"),
        (struct.pack("<ii", 1, 2**30), "a name has 1073741824 bytes"),
        (struct.pack("<ii", 1, -1), "a name has -1 bytes"),
        (struct.pack("<ii1sii", 1, 1, b"a", 1, 2**31 - 1), "says 1 calls and 2147483647 values"),
        (struct.pack("<ii1sii", 1, 1, b"a", 1, 0), "says 1 calls and 0 values"),
        (dat([(Q, -1, [1.0])]), "says -1 calls"),
        (dat([(Q, 1, [1.0]), (Q, 1, [1.0])]), "says 1 calls and 1 values"),
        (dat([(Q, 1, [1.0])], end=struct.pack("<ii", 7, 2**20)), "a name has 1048576 bytes"),
    ],
)
def test_an_older_file_that_lies_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "imatrix.dat").write_bytes(content)
    with pytest.raises(CheckpointError, match=said):
        read_imatrix(tmp_path / "imatrix.dat")


def test_a_model_is_no_imatrix_and_an_imatrix_no_model(tmp_path: Path) -> None:
    """Each error says what to do."""
    model = write_with_gguf(tmp_path / "model.gguf", type="model")
    with pytest.raises(UnsupportedModelError, match="is no imatrix, but of the type 'model': name a file that"):
        read_imatrix(model)
    imatrix = write_with_gguf(tmp_path / "imatrix.gguf")
    with pytest.raises(UnsupportedModelError, match=r"is an imatrix, .* and no model: name a model"):
        read_gguf(imatrix)
