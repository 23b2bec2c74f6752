"""Writing `.gguf` files: what the `gguf` package reads in them, and their size to the byte."""

from pathlib import Path

import gguf
import numpy as np
import pytest
import torch

from qtoolkit.checkpoints.gguf_header import read_gguf
from qtoolkit.checkpoints.gguf_writing import TensorEntry, Value, gguf_bytes, write_gguf

VALUES = {
    "general.architecture": Value("string", "llama"),
    "llama.block_count": Value("uint32", 7),
    "least": Value("int32", -3),
    "scale": Value("float32", 0.1),
    "flag": Value("bool", True),
    "tokens": Value("string", ("a", "\u00e4\u4f60", "")),
    "scores": Value("float32", (0.5, -2.0)),
    "types": Value("int32", (1, -1)),
}
ENTRIES = (TensorEntry("first", (3, 2), 0, 24), TensorEntry("second", (5,), 0, 20))
WEIGHTS = {"first": torch.arange(6.0).reshape(3, 2), "second": -torch.arange(5.0)}


def test_the_gguf_package_reads_values_and_tensors(tmp_path: Path) -> None:
    """Each kind of value, texts beyond ASCII, and tensors whose bytes are no multiple of 32."""
    file = written(tmp_path)
    reader = gguf.GGUFReader(file)
    for name, value in VALUES.items():
        expected = list(value.content) if isinstance(value.content, tuple) else value.content
        assert reader.fields[name].contents() == (pytest.approx(expected) if value.kind == "float32" else expected)
    assert len([name for name in reader.fields if not name.startswith("GGUF.")]) == len(VALUES)
    for tensor in reader.tensors:
        assert np.array_equal(tensor.data, WEIGHTS[tensor.name].numpy())


def test_our_own_reader_of_headers_takes_it(tmp_path: Path) -> None:
    """It checks counts and lengths of files from anywhere."""
    assert read_gguf(written(tmp_path)).shapes == {entry.name: entry.shape for entry in ENTRIES}


def test_the_size_is_known_before(tmp_path: Path) -> None:
    """To the byte."""
    assert written(tmp_path).stat().st_size == gguf_bytes(VALUES, ENTRIES)


def test_a_tensor_of_another_size_is_refused(tmp_path: Path) -> None:
    """A file whose tensors overlap is never complete."""
    with pytest.raises(ValueError, match="second has 16 bytes instead of 20"):
        list(write_gguf(tmp_path / "f.gguf", VALUES, ENTRIES, lambda entry: bytes_of(WEIGHTS[entry.name][:4])))


def test_tensors_are_read_one_by_one(tmp_path: Path) -> None:
    """The next one is read only when the one before is written."""
    seen: list[str] = []

    def read(entry: TensorEntry) -> torch.Tensor:
        seen.append(entry.name)
        return bytes_of(WEIGHTS[entry.name])

    for entry in write_gguf(tmp_path / "f.gguf", VALUES, ENTRIES, read):
        assert seen[-1] == entry.name
    assert seen == ["first", "second"]


def written(folder: Path) -> Path:
    """Write the file."""
    file = folder / "f.gguf"
    for _ in write_gguf(file, VALUES, ENTRIES, lambda entry: bytes_of(WEIGHTS[entry.name])):
        pass
    return file


def bytes_of(tensor: torch.Tensor) -> torch.Tensor:
    """Return the bytes of a tensor."""
    return tensor.flatten().view(torch.uint8)
