"""Tensors of a safetensors file, read one at a time: equal to what safetensors' own loader reads."""

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from qtoolkit.checkpoints.safetensors import DTYPES, ReportedTensor, StoredTensor, read_tensors
from qtoolkit.errors import CheckpointError

SHAPES = {
    "matrix": (3, 5),
    "vector": (7,),
    "zero-dim": (),
    "empty": (0,),
    "empty matrix": (4, 0),
    "five-dim": (1, 2, 1, 3, 1),
}


def random_tensor(dtype: torch.dtype, shape: tuple[int, ...]) -> torch.Tensor:
    """Random bytes seen as this type, NaN and infinity among them."""
    size = torch.empty(shape, dtype=dtype).nbytes
    generator = torch.Generator().manual_seed(size)
    # [bytes] -> shape
    raw = torch.randint(0, 2 if dtype == torch.bool else 256, (size,), generator=generator, dtype=torch.uint8)
    return raw.view(dtype).reshape(shape)


def raw_bytes(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every type in every shape, written by safetensors."""
    path = tmp_path_factory.mktemp("stored") / "model.safetensors"
    tensors = {f"{name} {shape}": random_tensor(DTYPES[name], SHAPES[shape]) for name in DTYPES for shape in SHAPES}
    save_file(tensors, path)
    return path


@pytest.fixture(scope="module")
def expected(file: Path) -> dict[str, torch.Tensor]:
    return load_file(file)


def test_the_same_names_are_found(file: Path, expected: dict[str, torch.Tensor]) -> None:
    assert read_tensors(file).keys() == expected.keys()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_tensor_is_the_one_that_safetensors_loads(
    file: Path, expected: dict[str, torch.Tensor], dtype: str, shape: str
) -> None:
    stored, loaded = read_tensors(file)[f"{dtype} {shape}"], expected[f"{dtype} {shape}"]
    assert (stored.dtype, stored.shape, stored.nbytes) == (loaded.dtype, tuple(loaded.shape), loaded.nbytes)
    tensor = stored[...]
    assert (tensor.dtype, tensor.shape) == (loaded.dtype, loaded.shape)
    assert raw_bytes(tensor) == raw_bytes(loaded)


def test_a_part_is_read_by_its_index(file: Path, expected: dict[str, torch.Tensor]) -> None:
    stored, loaded = read_tensors(file)["I64 matrix"], expected["I64 matrix"]
    assert torch.equal(stored[1:, ::2], loaded[1:, ::2])


def test_what_is_read_is_a_copy_of_its_own(file: Path, expected: dict[str, torch.Tensor]) -> None:
    stored = read_tensors(file)["I64 matrix"]
    stored[...].zero_()
    assert torch.equal(stored[...], expected["I64 matrix"])


@pytest.fixture
def large(tmp_path: Path) -> tuple[Path, StoredTensor]:
    path = tmp_path / "model.safetensors"
    save_file({"a": torch.ones(1000)}, path)
    return path, read_tensors(path)["a"]


@pytest.mark.parametrize("left", [0, 8, 2000], ids=["emptied", "within the header", "within the tensor"])
def test_a_file_that_shrinks_after_its_header_was_read_is_an_error(large: tuple[Path, StoredTensor], left: int) -> None:
    path, stored = large
    with path.open("r+b") as file:
        file.truncate(left)
    with pytest.raises(CheckpointError, match="ended within a tensor"):
        stored[...]


def test_a_file_that_goes_after_its_header_was_read_is_an_error(large: tuple[Path, StoredTensor]) -> None:
    path, stored = large
    path.unlink()
    with pytest.raises(CheckpointError, match=r"cannot be read \(No such file"):
        stored[...]


@pytest.mark.parametrize("how", ["another file takes its name", "written in its place"])
def test_a_file_of_another_model_of_the_same_shapes_is_not_read_on(large: tuple[Path, StoredTensor], how: str) -> None:
    """As when somebody saves to the folder that a long job reads: half of the result would be of each model."""
    path, stored = large
    other = path.with_name("other.safetensors")
    save_file({"a": torch.zeros(1000)}, other)
    if how == "written in its place":
        path.write_bytes(other.read_bytes())
    else:
        other.replace(path)
    # Clocks of file systems tick some hundred times a second.
    os.utime(path, ns=(0, stored.stamp[1] + 10**7))
    with pytest.raises(CheckpointError, match=r"was replaced or written while it was in use.*call that again"):
        stored[...]
    assert torch.equal(read_tensors(path)["a"][...], torch.zeros(1000))


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_reported_tensor_has_the_name_of_its_type(dtype: str) -> None:
    tensor = torch.empty(2, dtype=DTYPES[dtype])
    assert ReportedTensor(tensor, lambda _: None).get_dtype() == dtype


def test_a_reported_tensor_is_told_of_and_let_go_of(large: tuple[Path, StoredTensor]) -> None:
    seen: list[torch.Tensor] = []
    reported = ReportedTensor(large[1], seen.append)
    assert seen == []
    tensor = reported[...]
    assert len(seen) == 1
    assert seen[0] is tensor
    assert torch.equal(tensor, torch.ones(1000))
    with pytest.raises(AssertionError, match="once"):
        reported[...]
