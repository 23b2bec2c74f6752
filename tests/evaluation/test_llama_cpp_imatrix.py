"""llama.cpp's quantizer takes the importance that a job has kept, and makes the file that the job made.

Without importance a job tries fewer steps of Q4_K, so that blocks of embeddings differ, and are as near to the weights.
"""

from pathlib import Path

import gguf
import numpy as np
import pytest

import qtoolkit as qt
from tests.evaluation.llama_cpp_files import quantize_by_llama_cpp
from tests.methods.gptq.jobs import TEXTS
from tests.sample_models import few_tokens, random_model

library = pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed: run `make test-llama-cpp`")

_Q4_K_M = 15  # LLAMA_FTYPE_MOSTLY_Q4_K_M of llama.h


@pytest.mark.parametrize("architecture", ["llama", "mixtral"])
def test_the_file_is_the_same(architecture: str, smollm2: Path, tmp_path: Path) -> None:
    count = few_tokens(smollm2, tmp_path / "model")
    model = random_model(architecture, vocab_size=count, hidden_size=256, intermediate_size=512)
    model.save_pretrained(tmp_path / "model")
    measured = qt.GGUF("Q4_K_M", calibration=TEXTS, num_samples=8, seq_len=64, solve=False)
    for name, config in (("plain", qt.GGUF("BF16")), ("made", measured)):
        qt.quantize(tmp_path / "model", config, output=tmp_path / name, device="cpu")
    (plain,) = (tmp_path / "plain").glob("*.gguf")
    means = means_of(tmp_path / "made" / "imatrix.gguf_file")
    quantize_by_llama_cpp(library, plain, tmp_path / "weighed.gguf", ftype=_Q4_K_M, means=means)
    quantize_by_llama_cpp(library, plain, tmp_path / "unweighed.gguf", ftype=_Q4_K_M)
    (made,) = (tmp_path / "made").glob("*.gguf")
    ours, weighed, unweighed = map(blocks_of, (made, tmp_path / "weighed.gguf", tmp_path / "unweighed.gguf"))
    assert {name: len(blocks) for name, blocks in ours.items()} == {
        name: len(blocks) for name, blocks in weighed.items()
    }
    errors = [errors_of(file, plain) for file in (made, tmp_path / "weighed.gguf")]
    for name, blocks in ours.items():
        if name != "token_embd.weight":
            assert (blocks == weighed[name]).mean() > 0.99, name
        assert errors[0][name] <= 1.02 * errors[1][name], name
    assert {name for name, blocks in weighed.items() if (blocks != unweighed[name]).mean() > 0.02} == {*means}


def means_of(file: Path) -> dict[str, np.ndarray]:
    """The mean squares of inputs, as `load_imatrix` of llama.cpp's `quantize.cpp` takes them of a file."""
    tensors = {tensor.name: tensor.data for tensor in gguf.GGUFReader(str(file)).tensors}
    means = {}
    for name, sums in tensors.items():
        if name.endswith(".in_sum2"):
            weight = name.removesuffix(".in_sum2")
            counts = tensors[f"{weight}.counts"].reshape(-1, 1)
            rows = np.where(counts > 0, sums.reshape(len(counts), -1) / np.maximum(counts, 1), 1)
            means[weight] = rows.astype(np.float32).ravel()
    return means


def errors_of(file: Path, plain: Path) -> dict[str, float]:
    """The squared error of each tensor, by the weights that the file in 16 bits holds."""
    whole, rounded = (
        {tensor.name: gguf.dequantize(tensor.data, tensor.tensor_type) for tensor in gguf.GGUFReader(str(one)).tensors}
        for one in (plain, file)
    )
    return {name: float(np.square(rounded[name] - weights).sum()) for name, weights in whole.items()}


def blocks_of(file: Path) -> dict[str, np.ndarray]:
    """The bytes of each tensor."""
    return {tensor.name: tensor.data.view(np.uint8).ravel() for tensor in gguf.GGUFReader(str(file)).tensors}
