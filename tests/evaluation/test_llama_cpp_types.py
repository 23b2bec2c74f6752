"""Files of every type and architecture through llama.cpp: its logits are those of transformers with the same weights.

llama.cpp rounds the inputs of a product with a quantized weight to 8 bits, which moves logits by some hundredths of
their deviation. So each file is run twice: as it is, and after llama.cpp has expanded it to float32 itself, which shows
that it reads the same weights and computes the same with them.
"""

from collections.abc import Iterator
from pathlib import Path

import gguf
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from qtoolkit.evaluation.llama_cpp import LlamaCppModel
from qtoolkit.formats.gguf.mixes import MIXES
from tests.evaluation.llama_cpp_files import expand, expand_by_llama_cpp, quantize_by_llama_cpp, write_file
from tests.formats.gguf.small_models import SMALL, small_model
from tests.sample_models import gemma3_folder

library = pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed: run `make test-llama-cpp`")

# Rows of 256 weights and more, which every type holds.
_WIDE = {"hidden_size": 256, "intermediate_size": 512}
_CHANGES = {
    "gpt2": {"n_embd": 256},
    "qwen2_moe": _WIDE | {"moe_intermediate_size": 256, "shared_expert_intermediate_size": 256},
    "qwen3_moe": _WIDE | {"moe_intermediate_size": 256},
    # Its factors are of the heads of a hidden size of 64.
    "phi3, longrope": {},
}


@pytest.fixture(scope="module", autouse=True)
def quiet() -> Iterator[None]:
    """llama.cpp's quantizer prints a line for each tensor."""
    nothing = library.llama_log_callback(lambda level, text, data: None)
    before, data = library.llama_log_callback(), library.ctypes.c_void_p()
    library.llama_log_get(library.ctypes.byref(before), library.ctypes.byref(data))
    library.llama_log_set(nothing, None)
    yield
    library.llama_log_set(before, data)


@pytest.mark.parametrize("title", SMALL)
@pytest.mark.parametrize("kind", MIXES)
def test_a_small_model_of_each_architecture(kind: str, title: str, tmp_path: Path) -> None:
    check(small_model(title, **_CHANGES.get(title, _WIDE)), kind, None, tmp_path, torch.arange(48)[None] * 37 % 93 + 3)


@pytest.mark.parametrize("kind", MIXES)
def test_smollm2(kind: str, smollm2: Path, tmp_path: Path) -> None:
    check_folder(smollm2, kind, tmp_path)


@pytest.mark.parametrize("kind", MIXES)
def test_gemma_3_270m(kind: str, tmp_path: Path) -> None:
    """Its rows of 640 hold no block of 256: most of its tensors have the types that llama.cpp falls back to."""
    folder = gemma3_folder()
    if folder is None:
        pytest.skip("Gemma 3 270M is not here: run `make more-models`")
    check_folder(folder, kind, tmp_path)


def check_folder(folder: Path, kind: str, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    text = "The Eiffel Tower, finished in 1889, stands in Paris; it is 330 metres high."
    ids = torch.tensor([tokenizer(text)["input_ids"]])
    check(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval(), kind, tokenizer, tmp_path, ids)


def check(model: PreTrainedModel, kind: str, tokenizer: object, tmp_path: Path, ids: torch.Tensor) -> None:
    """Compare logits of a model's file, int64 [1, tokens], with those of transformers."""
    file, plain = tmp_path / "a.gguf", tmp_path / "plain.gguf"
    plan = write_file(file, model, kind, tokenizer)
    with torch.no_grad():
        expected = expand(file, model, plan)(ids).logits
    expand_by_llama_cpp(library, file, plain)
    deviation = expected.std()
    assert (logits_of(plain, ids) - expected).abs().max() < 0.02 * deviation
    # llama.cpp rounds the inputs of products. As a rule that makes 0.04, and weights in other places give 1.
    rounding = logits_of(file, ids).sub(expected).std() / deviation
    if rounding >= 0.1:
        # SmolLM2's answers to a row of digits move more, as with llama.cpp's own file (Q4_K_M: 0.112, theirs 0.134).
        theirs, source = tmp_path / "theirs.gguf", tmp_path / "source.gguf"
        write_file(source, model, "F16", tokenizer)
        quantize_by_llama_cpp(library, source, theirs, ftype=gguf.LlamaFileType[f"MOSTLY_{kind}"])
        expand_by_llama_cpp(library, theirs, plain)
        exact = logits_of(plain, ids)
        assert rounding < 1.2 * logits_of(theirs, ids).sub(exact).std() / exact.std()
        theirs.unlink()
        source.unlink()
    file.unlink()
    plain.unlink()


def logits_of(file: Path, ids: torch.Tensor) -> torch.Tensor:
    """What llama.cpp computes, float32 [1, tokens, vocabulary]."""
    with LlamaCppModel(file) as opened:
        return opened.logits(ids)
