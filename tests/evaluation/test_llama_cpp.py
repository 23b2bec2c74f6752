"""A `.gguf` file through llama.cpp: its logits beside those of transformers with the same weights, and its refusals."""

import ctypes
import math
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import AutoTokenizer

import qtoolkit as qt
from qtoolkit.checkpoints.gguf_writing import write_gguf
from qtoolkit.errors import ConfigError, ModelNotFoundError, SourceError
from qtoolkit.evaluation.llama_cpp import LlamaCppModel
from qtoolkit.formats.gguf.file_plan import plan_file
from tests.fake_hub.fixture import hub
from tests.fake_hub.server import Hub
from tests.sample_models import dequantized, random_model, smollm2_gguf

__all__ = ["hub"]

library = pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed: run `make test-llama-cpp`")

TEXT = (Path(__file__).parent.parent.parent / "LICENSE").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def model() -> Iterator[LlamaCppModel]:
    with LlamaCppModel(smollm2_gguf()) as opened:
        yield opened


@pytest.fixture(scope="module")
def windows(model: LlamaCppModel) -> torch.Tensor:
    """Two windows of more tokens than llama.cpp computes at once, int64 [2, 520]."""
    return torch.tensor(model.encode(TEXT)[: 2 * 520]).view(2, 520)


@pytest.fixture(scope="module")
def logits(model: LlamaCppModel, windows: torch.Tensor) -> torch.Tensor:
    return model.logits(windows)


@pytest.fixture(scope="module")
def expected(windows: torch.Tensor) -> torch.Tensor:
    """Logits of transformers in float32 with the weights of the same file, [2, 520, V]."""
    from transformers import AutoModelForCausalLM

    file = smollm2_gguf()
    theirs = AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, dtype=torch.float32, **dequantized()
    )
    with torch.no_grad():
        return torch.cat([theirs(window[None]).logits for window in windows])


def divergence(base: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """KL(base || other) of each token in nats, from logits of shape [..., V]."""
    base, other = base.log_softmax(-1), other.log_softmax(-1)
    return (base.exp() * (base - other)).sum(-1)


def perplexity(logits: torch.Tensor, ids: torch.Tensor) -> float:
    return math.exp(cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()))


def test_logits_are_those_of_transformers_but_for_8_bit_inputs(logits: torch.Tensor, expected: torch.Tensor) -> None:
    assert (logits.dtype, logits.shape) == (torch.float32, expected.shape)
    found = divergence(expected, logits)  # [2, 520]
    # Measured on WikiText-2: 0.003. A wrong position or a cache that is not emptied gives more than 1.
    assert found.mean() < 0.01
    assert found.max() < 0.5
    assert (expected.argmax(-1) == logits.argmax(-1)).float().mean() > 0.95


def test_perplexity_is_that_of_transformers_within_a_hundredth(
    logits: torch.Tensor, expected: torch.Tensor, windows: torch.Tensor
) -> None:
    assert perplexity(logits, windows) == pytest.approx(perplexity(expected, windows), rel=0.01)


def test_every_window_starts_from_an_empty_cache(
    model: LlamaCppModel, windows: torch.Tensor, logits: torch.Tensor
) -> None:
    assert torch.equal(model.logits(windows[1:]), logits[1:])


def test_windows_of_other_lengths_are_read_by_the_same_model(
    model: LlamaCppModel, windows: torch.Tensor, expected: torch.Tensor
) -> None:
    for length in (1, 7, 513):
        found = model.logits(windows[:1, :length])
        assert found.shape == (1, length, model.vocab_size)
        assert divergence(expected[:1, :length], found).mean() < 0.01


def test_tokens_are_those_of_transformers(model: LlamaCppModel) -> None:
    from transformers import AutoTokenizer

    file = smollm2_gguf()
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    # Without digits: around them, transformers splits by other rules than the file names (`tokenizer.ggml.pre`).
    text = re.sub(r"\d", "x", TEXT)
    assert model.encode(text) == tokenizer(text)["input_ids"]
    assert model.encode("äöü 😀", add_special_tokens=False) == tokenizer("äöü 😀")["input_ids"]
    assert model.vocab_size == len(tokenizer)


@pytest.mark.parametrize("text", ["", "a", "Two words,\n\tand äöü 😀.", TEXT], ids=["empty", "a", "odd", "long"])
def test_text_comes_back_from_its_tokens(model: LlamaCppModel, text: str) -> None:
    assert model.decode(model.encode(text)) == text


def test_nothing_is_said_and_the_log_goes_where_it_went(
    windows: torch.Tensor, capfd: pytest.CaptureFixture[str]
) -> None:
    before, data = library.llama_log_callback(), ctypes.c_void_p()
    library.llama_log_get(ctypes.byref(before), ctypes.byref(data))
    told: list[bytes] = []
    mine = library.llama_log_callback(lambda level, text, data: told.append(text))
    library.llama_log_set(mine, None)
    try:
        with LlamaCppModel(smollm2_gguf()) as opened:
            opened.logits(windows[:1, :4])
            assert log_target() == ctypes.cast(mine, ctypes.c_void_p).value
        assert log_target() == ctypes.cast(mine, ctypes.c_void_p).value
        assert told == []
    finally:
        library.llama_log_set(before, data)
    assert tuple(capfd.readouterr()) == ("", "")


def log_target() -> int | None:
    """The address of the function that llama.cpp logs to."""
    callback, data = library.llama_log_callback(), ctypes.c_void_p()
    library.llama_log_get(ctypes.byref(callback), ctypes.byref(data))
    return ctypes.cast(callback, ctypes.c_void_p).value


@pytest.mark.parametrize(
    ("ids", "told"),
    [
        (torch.zeros(4).long(), r"int64 tokens of shape \(windows, tokens\), got int64 \(4,\)"),
        (torch.zeros(1, 4), r"got float32 \(1, 4\)"),
        (torch.zeros(2, 0).long(), r"got int64 \(2, 0\)"),
        (torch.tensor([[1, 49152]]), "knows the tokens 0 to 49151, got 49152"),
        (torch.tensor([[-1, 1]]), "got -1"),
    ],
    ids=["one row", "floats", "no token", "token too large", "token below 0"],
)
def test_what_is_no_tokens_is_refused(model: LlamaCppModel, ids: torch.Tensor, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        model.logits(ids)


def test_a_closed_model_is_refused(windows: torch.Tensor) -> None:
    with LlamaCppModel(smollm2_gguf()) as opened:
        opened.logits(windows[:1, :4])
    opened.close()
    with pytest.raises(ConfigError, match="was closed"):
        opened.logits(windows)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"'.*none.gguf' is no file"):
        LlamaCppModel(tmp_path / "none.gguf")


@pytest.mark.parametrize(
    ("size", "told"), [(100, "cannot read"), (10_000_000, "corrupted or incomplete")], ids=["header cut", "weights cut"]
)
def test_a_cut_file_is_refused_with_the_reason(
    tmp_path: Path, size: int, told: str, capfd: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "cut.gguf"
    with smollm2_gguf().open("rb") as whole:
        file.write_bytes(whole.read(size))
    with pytest.raises(SourceError, match=told) as caught:
        LlamaCppModel(file)
    assert len(str(caught.value).splitlines()) == 1
    assert "no reason" not in str(caught.value)
    assert tuple(capfd.readouterr()) == ("", "")


def test_a_file_is_measured_as_its_users_run_it(smollm2: Path) -> None:
    """What llama.cpp's rounding costs, against the same weights in full precision."""
    report = qt.evaluate(smollm2_gguf(), base=smollm2, text=[TEXT], seq_len=256, num_tokens=2048, device="cpu")
    assert report.perplexity == pytest.approx(report.base_perplexity, rel=0.01)
    assert 0 < report.kl_divergence < 0.01
    assert any("was run by llama.cpp" in note for note in report.notes)


@pytest.mark.parametrize(("kind", "most"), [("F16", 1e-4), ("Q8_0", 1e-3), ("Q4_K_M", 5e-3)])
def test_a_file_of_our_writer_is_measured_as_what_it_expands_to(
    kind: str, most: float, smollm2: Path, hub: Hub, tmp_path: Path
) -> None:
    """By its path and from the Hub, on the ruler of the folder that it was made from."""
    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    sizes = {"hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 4, "num_key_value_heads": 2}
    source = random_model("llama_tied", vocab_size=len(tokenizer), max_position_embeddings=256, **sizes)
    source.save_pretrained(tmp_path / "source")
    tokenizer.save_pretrained(tmp_path / "source")
    weights = {name: weight for name, weight in source.state_dict().items() if name != "lm_head.weight"}
    shapes = {name: tuple(weight.shape) for name, weight in weights.items()}
    plan = plan_file(source.config, shapes, tokenizer, kind, {"general.name": "random"})
    planned = {tensor.entry.name: tensor for tensor in plan.tensors}
    file = tmp_path / f"random-{kind}.gguf"
    list(write_gguf(file, plan.values, plan.entries, lambda entry: planned[entry.name].made(weights.__getitem__)))
    hub.add("org/random", {file.name: file.read_bytes()})

    text = {"text": [TEXT], "seq_len": 64, "num_tokens": 256, "device": "cpu"}
    base = tmp_path / "source"
    expanded = qt.load(file, device="cpu")
    expected = qt.evaluate(expanded, base=base, tokenizer=tokenizer, **text).kl_divergence
    for name in (file, f"org/random:{kind}"):
        report = qt.evaluate(name, base=base, **text)
        assert report.notes[-1].startswith(f"{file.name} was run by llama.cpp")
        assert report.kl_divergence == pytest.approx(expected, abs=most)
    compared = qt.compare(file, [str(file), None], prompts=(), **text)
    found = {row.method: row.quality.kl_divergence for row in compared.results if row.quality}
    assert found == {"gguf": pytest.approx(0, abs=most), "full precision": 0}
