"""A few files, and a push of them as `publish` does it."""

from collections.abc import Mapping
from pathlib import Path
from random import Random

import pytest

from qtoolkit.publishing import push
from qtoolkit.publishing.push import Content, Repository
from qtoolkit.publishing.token import Writer
from qtoolkit.records import OnProgress, ignore_progress
from tests.fake_hub.fixture import WRITE_TOKEN

REPO = "me/tiny"
WRITER = Writer(WRITE_TOKEN, "me")
CARD = b"---\nlicense: apache-2.0\n---\n# card\n"


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither those of qtoolkit nor those of huggingface_hub, which are seconds long."""
    monkeypatch.setattr(push, "PAUSES", (0.0, 0.0))
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _seconds: None)


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Content]:
    """Two files in several parts, one in a single one, and two that git itself keeps."""
    folder = tmp_path / "model"
    folder.mkdir()
    random = Random(0)  # noqa: S311
    contents = {f"model-0000{i}-of-00002.safetensors": random.randbytes(700_000 + i) for i in (1, 2)}
    contents |= {"a.safetensors": b"a" * 1000, "config.json": b"{}"}
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return {**{name: folder / name for name in contents}, "README.md": CARD}


def pushed(
    files: Mapping[str, Content],
    on_progress: OnProgress = ignore_progress,
    *,
    repo_id: str = REPO,
    revision: str = "main",
    create_pr: bool = False,
) -> tuple[str | None, str | None]:
    """As `publish` does it, to a private repository."""
    repository = Repository(repo_id, WRITER, revision, on_progress)
    repository.open(private=True, create_pr=create_pr)
    repository.refuse_leftovers(files)
    unchanged = repository.unchanged(files, {})
    left = {name: content for name, content in files.items() if name not in unchanged}
    return repository.push(left, "title", create_pr=create_pr) if left else (repository.parent, None)


def contents(files: Mapping[str, Content]) -> dict[str, bytes]:
    return {name: content if isinstance(content, bytes) else content.read_bytes() for name, content in files.items()}
