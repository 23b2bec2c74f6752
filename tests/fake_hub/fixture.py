"""Fixtures with a Hub of the test's own, which huggingface_hub in this process takes for the real one."""

from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import constants
from huggingface_hub.utils._xet import abort_xet_session

from tests.fake_hub.datasets import DatasetHub
from tests.fake_hub.server import Hub
from tests.fake_hub.writable import WritableHub
from tests.fake_hub.writable_xet import WritableXetHub
from tests.fake_hub.xet import XetHub

WRITE_TOKEN = "hf_write" + "w" * 27


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """An empty Hub, an empty cache in `tmp_path / "hub"`, and no token."""
    with Hub() as server:
        yield from _pointed_to(server, tmp_path, monkeypatch)


@pytest.fixture(params=["http", "xet"])
def any_hub(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """As `hub`, with weights handed out directly, and through Xet."""
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", request.param == "http")
    with Hub() if request.param == "http" else XetHub() as server:
        yield from _pointed_to(server, tmp_path, monkeypatch)


@pytest.fixture
def dataset_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[DatasetHub]:
    """As `hub`, with datasets, which the package datasets streams from it."""
    import datasets

    with DatasetHub() as server:
        monkeypatch.setattr(datasets.config, "HF_ENDPOINT", server.url)
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "datasets"))
        yield from _pointed_to(server, tmp_path, monkeypatch)


@pytest.fixture
def writable_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WritableHub]:
    """As `hub`, with a token that may write for the account "me", in LFS mode."""
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    with WritableHub() as server:
        server.tokens.add(WRITE_TOKEN)
        server.writers[WRITE_TOKEN] = "me"
        yield from _pointed_to(server, tmp_path, monkeypatch)


@pytest.fixture(params=["lfs", "xet"])
def any_writable_hub(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[WritableHub]:
    """As `writable_hub`, and with large files sent by hf_xet."""
    if request.param == "lfs":
        yield request.getfixturevalue("writable_hub")
        return
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    for name, value in {"XORB_COMPRESSION_POLICY": "none", "CLIENT_RETRY_BASE_DELAY": "10ms"}.items():
        monkeypatch.setenv(f"HF_XET_{name}", value)
    with WritableXetHub() as server:
        server.tokens.add(WRITE_TOKEN)
        server.writers[WRITE_TOKEN] = "me"
        # hf_xet reads its environment when its session begins.
        abort_xet_session()
        yield from _pointed_to(server, tmp_path, monkeypatch)
        abort_xet_session()


def environment(server: Hub, home: Path) -> dict[str, str]:
    """What points huggingface_hub in another process to the Hub, with the cache of the fixtures."""
    return {"HF_ENDPOINT": server.url, "HF_HOME": str(home)}


def _pointed_to(server: Hub, home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """huggingface_hub reads its environment once, at import: here is what it made of it, set afterwards."""
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(home / "token"))
    monkeypatch.setattr(constants, "HF_STORED_TOKENS_PATH", str(home / "stored_tokens"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    # Progress and resuming go by pieces of 10 MB, more than a test wants to send.
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 64 * 1024)
    # hf_xet reads the environment itself, and keeps its logs there.
    monkeypatch.setenv("HF_HOME", str(home))
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    # Made before threads ask at once: of several first ones each makes a client (get_session does not look again once
    # it has its lock), and those that are not kept leave their sockets open.
    huggingface_hub.get_session()
    yield server
    huggingface_hub.close_session()
