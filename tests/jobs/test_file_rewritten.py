"""A `.gguf` file that is quantized into another: its tokenizer is told by the same values of the header."""

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from tokenizers import AddedToken, normalizers

import qtoolkit as qt
from tests.formats.gguf.small_models import small_model
from tests.formats.gguf.test_vocabulary import SPLITS, byte_level, sentencepiece
from tests.models.test_gguf_architectures import write_model

FAMILIES = ("smollm", "llama-bpe", "llama", "gemma")


def tokenizer_of(family: str) -> Any:
    """A small tokenizer as a family has it, with a token of the user, a further special one and a template."""
    if family in {"llama", "gemma"}:
        tokenizer = sentencepiece()
    else:
        tokenizer = byte_level(SPLITS["smollm" if family == "smollm" else "dbrx"])
    if family == "llama-bpe":
        tokenizer.backend_tokenizer.model.ignore_merges = True
    if family == "gemma":
        tokenizer.backend_tokenizer.normalizer = normalizers.Replace(" ", "\u2581")
    tokenizer.add_special_tokens({"eos_token": AddedToken("<|end|>", special=True)})
    tokenizer.add_tokens([AddedToken("   ", normalized=False), AddedToken("<tool>", normalized=False)])
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}" * 30
    return tokenizer


@pytest.mark.parametrize("family", FAMILIES)
def test_a_file_of_a_file_tells_of_the_same_tokenizer(family: str, tmp_path: Path) -> None:
    """Key by key; scores are ranks, so that their order is compared."""
    source = tmp_path / "a.gguf"
    write_model(source, small_model("llama", vocab_size=400), "F16", tokenizer_of(family))
    made = qt.quantize(source, qt.GGUF("Q8_0"), output=tmp_path / "out", device="cpu")
    assert made.path is not None
    (file,) = made.path.glob("*.gguf")
    before, after = (tokenizer_values(one) for one in (source, file))
    scores = [values.pop("tokenizer.ggml.scores", [0]) for values in (before, after)]
    assert before == after
    assert before["tokenizer.ggml.pre"] == (family if family in {"smollm", "llama-bpe"} else "default")
    orders = [np.argsort(-np.array(one), kind="stable").tolist() for one in scores]
    assert orders[0] == orders[1]


def tokenizer_values(file: Path) -> dict[str, Any]:
    """What the header of a file says of its tokenizer, as the `gguf` package reads it."""
    fields = gguf.GGUFReader(file).fields
    return {key: field.contents() for key, field in fields.items() if key.startswith("tokenizer.")}
