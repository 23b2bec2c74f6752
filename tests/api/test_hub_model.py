"""A model of the Hub, from its name to the quantized result: pinned, and downloaded with progress."""

from pathlib import Path

import pytest
import torch

import qtoolkit as qt
from qtoolkit.errors import GatedModelError, SourceError, UnsupportedModelError
from tests.fake_hub.server import Hub


def test_a_hub_model_is_pinned_and_the_same(hub: Hub, tiny_llama: Path) -> None:
    repository = hub.add("org/tiny", tiny_llama)
    phases: list[str] = []
    quantized = qt.quantize("org/tiny@main", "int8", device="cpu", on_progress=lambda event: phases.append(event.phase))
    assert quantized.report.source.name == "org/tiny"
    assert quantized.report.source.commit_hash == repository.refs["main"]
    assert list(dict.fromkeys(phases)) == ["download", "quantize"]
    tokens = torch.arange(2, 18).reshape(1, 16)
    with torch.no_grad():
        expected = qt.quantize(tiny_llama, "int8", device="cpu").model(tokens).logits
        assert torch.equal(quantized.model(tokens).logits, expected)
    assert quantized.tokenizer("a b").input_ids


def test_a_quantized_result_is_loaded_from_the_hub(hub: Hub, tiny_llama: Path, tmp_path: Path) -> None:
    made = qt.quantize(tiny_llama, qt.AbsMax(), device="cpu", output=tmp_path / "out")
    hub.add("org/absmax", tmp_path / "out")
    loaded = qt.load("org/absmax", device="cpu")
    assert isinstance(loaded, qt.QuantizedModel)
    assert loaded.memory.footprint_after == made.memory.footprint_after
    with pytest.raises(UnsupportedModelError, match="quantized already"):
        qt.quantize("org/absmax", "nf4", device="cpu")


@pytest.mark.parametrize(
    ("token", "error"),
    [(None, GatedModelError), ("hf_secretsecretsecret", SourceError)],
    ids=["no-token", "unknown-token"],
)
def test_a_gated_model_says_what_to_do(hub: Hub, tiny_llama: Path, token: str | None, error: type[SourceError]) -> None:
    hub.add("org/gated", tiny_llama, gated=True)
    with pytest.raises(error, match="token") as caught:
        qt.quantize("org/gated", "nf4", device="cpu", token=token)
    assert "hf_secret" not in str(caught.value)


def test_cached_models_are_named_for_completion(hub: Hub, tiny_llama: Path) -> None:
    hub.add("org/tiny", tiny_llama)
    qt.quantize("org/tiny", "absmax", device="cpu")
    assert qt.local_models() == ("org/tiny",)


def test_its_licence_and_terms_go_into_the_receipt_and_its_base_is_compared(
    hub: Hub, tiny_llama: Path, tmp_path: Path
) -> None:
    repository = hub.add("org/tiny", tiny_llama)
    commit = repository.commit({"README.md": b"---\nlicense: llama3.2\nlanguage: en\n---\n"})
    made = qt.quantize("org/tiny", "absmax", device="cpu", output=tmp_path / "out")
    assert made.receipt is not None
    assert (made.receipt.license, made.receipt.gated) == ("llama3.2", False)
    assert made.receipt.inherited == {"language": "en"}
    assert (made.receipt.source.name, made.receipt.source.commit_hash) == ("org/tiny", commit)
    # Found in the cache by the receipt, without the Hub.
    hub.requests.clear()
    verification = qt.verify(tmp_path / "out")
    assert hub.requests == []
    values = {check.name: (check.passed, check.value) for check in verification.checks}
    assert values["base model"] == (True, f"org/tiny, commit {commit}")
    assert values["token ids"] == (True, "as in the base")
