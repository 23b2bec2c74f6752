"""Blocks of `.gguf` files: as exact as llama.cpp's own, and read back by the `gguf` package."""

import itertools
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch

from qtoolkit.tensor.block_search import Codebook
from qtoolkit.tensor.block_types import BLOCK_TYPES, quantize_rows
from tests.data.llama_cpp import small_matrix

WEIGHT, IMPORTANCE = torch.from_numpy(small_matrix.WEIGHT), torch.from_numpy(small_matrix.IMPORTANCE)
QUANTIZED = [name for name, type_ in BLOCK_TYPES.items() if type_.block_size > 1]
PLAIN = ["F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"]


@pytest.fixture(scope="module")
def by_llama_cpp() -> dict[str, np.ndarray]:
    """Return what llama.cpp made of the matrix; `tests/data/llama_cpp/quantize_blocks.py` stored it."""
    with np.load(Path(small_matrix.__file__).with_name("blocks.npz")) as stored:
        return dict(stored)


@pytest.mark.parametrize("name", QUANTIZED)
@pytest.mark.parametrize("weighted", [False, True], ids=["alike", "weighted"])
def test_the_error_is_that_of_llama_cpp(name: str, weighted: bool, by_llama_cpp: dict[str, np.ndarray]) -> None:
    """At most 0.5 % above in the whole, 5 % in a row, where a tie may fall otherwise; most bytes are the same."""
    ours = quantize_rows(WEIGHT, BLOCK_TYPES[name], IMPORTANCE if weighted else None).numpy()
    theirs = by_llama_cpp[f"{name}, weighted" if weighted else name]
    weights = small_matrix.IMPORTANCE if weighted else 1
    error, bound = (
        ((dequantized(blocks, name) - small_matrix.WEIGHT) ** 2 * weights).sum(1) for blocks in (ours, theirs)
    )
    assert error.sum() <= 1.005 * bound.sum()
    assert (error <= 1.05 * bound + 1e-12).all()
    assert (ours == theirs).mean() > 0.94


@pytest.mark.parametrize("name", PLAIN)
def test_the_plain_types_are_those_of_the_gguf_package(name: str) -> None:
    """Byte for byte; the rows of one sign and those in float16 too."""
    for weight in (WEIGHT, WEIGHT.to(torch.float16)):
        expected = gguf.quantize(weight.float().numpy(), gguf.GGMLQuantizationType[name])
        ours = quantize_rows(weight, BLOCK_TYPES[name]).numpy()
        assert np.array_equal(ours, expected.view(np.uint8).reshape(ours.shape))


@pytest.mark.parametrize("name", BLOCK_TYPES)
def test_types_are_numbered_and_sized_as_in_the_format(name: str) -> None:
    """Compared with the table of the `gguf` package."""
    type_, number = BLOCK_TYPES[name], gguf.GGMLQuantizationType[name]
    assert (type_.number, type_.block_size, type_.block_bytes) == (number, *gguf.GGML_QUANT_SIZES[number])
    assert type_.nbytes((3, 512)) == quantize_rows(WEIGHT[:3], type_).numel()


@pytest.mark.parametrize("name", QUANTIZED)
def test_a_row_has_the_same_blocks_wherever_it_stands(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The parts in which a matrix is quantized do not show."""
    whole = quantize_rows(WEIGHT, BLOCK_TYPES[name], IMPORTANCE)
    monkeypatch.setattr("qtoolkit.tensor.block_types._AT_A_TIME", 1500)
    assert torch.equal(quantize_rows(WEIGHT, BLOCK_TYPES[name], IMPORTANCE), whole)


@pytest.mark.parametrize("name", QUANTIZED)
@pytest.mark.parametrize("weighted", [False, True], ids=["alike", "weighted"])
def test_zeros_stay_zeros(name: str, weighted: bool) -> None:
    """No block of zeros becomes NaN, with importance of zero neither."""
    importance = torch.zeros(512) if weighted else None
    blocks = quantize_rows(torch.zeros(2, 512), BLOCK_TYPES[name], importance)
    assert not dequantized(blocks.numpy(), name).any()


@pytest.mark.parametrize("name", QUANTIZED)
def test_weights_that_are_nearly_alike_keep_their_size(name: str) -> None:
    """Their codes are alike, and nothing tells their scale from their minimum."""
    weight = 5 + 0.01 * WEIGHT[:2] / WEIGHT[:2].abs().max()
    for importance in (None, IMPORTANCE):
        blocks = quantize_rows(weight, BLOCK_TYPES[name], importance)
        assert np.allclose(dequantized(blocks.numpy(), name), 5, atol=0.25)


@pytest.mark.parametrize("name", QUANTIZED)
def test_numbers_at_the_ends_of_float32_are_quantized(name: str) -> None:
    """The size of all importance together changes nothing; weights too small for any scale become zero."""
    expected = quantize_rows(WEIGHT, BLOCK_TYPES[name], IMPORTANCE)
    for scale in (2.0**-100, 2.0**100):
        assert torch.equal(quantize_rows(WEIGHT, BLOCK_TYPES[name], IMPORTANCE * scale), expected)
    assert not dequantized(quantize_rows(WEIGHT * 1e-39, BLOCK_TYPES[name]).numpy(), name).any()


def test_a_value_takes_the_level_next_to_it() -> None:
    """Compared with all distances; of two as near, the upper; values beyond the levels take the last one."""
    levels = (-127, -65, -10, 1, 13, 114)
    book = Codebook(levels, torch.device("cpu"))
    middles = [(low + high) / 2 for low, high in itertools.pairwise(levels)]
    near = [middle + change for middle in middles for change in (-1e-5, 0.0, 1e-5)]
    values = torch.tensor([*near, *levels, -1e9, 1e9, *torch.linspace(-140, 140, 1001).tolist()])
    distances = (values[:, None] - torch.tensor(levels)).abs()
    expected = len(levels) - 1 - distances.flip(1).argmin(1)
    assert torch.equal(book.codes(values).long(), expected)
    assert torch.equal(book.nearest(values.clone()), torch.tensor(levels)[expected].float())


def test_rows_that_do_not_divide_are_refused() -> None:
    """A row is never cut short."""
    with pytest.raises(ValueError, match="rows of 64 do not divide into blocks of 256 of Q4_K"):
        quantize_rows(torch.zeros(2, 64), BLOCK_TYPES["Q4_K"])


def dequantized(blocks: np.ndarray, name: str) -> np.ndarray:
    """Return the weights by the `gguf` package, float32."""
    return gguf.dequantize(blocks, gguf.GGMLQuantizationType[name])
