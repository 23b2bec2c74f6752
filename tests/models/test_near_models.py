"""A mistyped name: what lies near it is told first, before what the Hub or the network says."""

from pathlib import Path

import pytest

from qtoolkit.models import near_models
from qtoolkit.models.near_models import missing_folder


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with a model, a `.gguf` file and something else."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(near_models, "cached_names", lambda: ("org/SmolLM2-135M",))
    for name in ("tiny", "saved/small-nf4"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "config.json").write_text("{}")
    (tmp_path / "tinker").mkdir()
    (tmp_path / "book.gguf").touch()
    return tmp_path


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("tinny", "there is no folder 'tinny' here; near: tiny"),
        ("saved/smal-nf4", "there is no folder 'saved/smal-nf4' here; near: saved/small-nf4"),
        ("bok.gguf", "there is no folder 'bok.gguf' here; near: book.gguf"),
        ("org/SmolLM2-153M", "there is no folder 'org/SmolLM2-153M' here; near: org/SmolLM2-135M"),
        ("tinker-", "there is no folder 'tinker-' here"),
        ("saved/other", "there is no folder 'saved/other' here"),
        ("someone/another-model", ""),
    ],
)
def test_what_is_near_is_named(name: str, said: str) -> None:
    assert missing_folder(name) == said
