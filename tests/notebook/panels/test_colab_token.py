"""On Colab the secret with the token is read when a panel opens: in the cell's thread, the only one that may."""

import importlib
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from huggingface_hub.utils import _auth, _runtime

from qtoolkit.notebook.panels import Panel
from tests.fake_hub.fixture import hub
from tests.fake_hub.server import Hub

__all__ = ["hub"]

USERDATA = """
import threading
from google.colab.errors import Error
threads = []
class NotebookAccessError(Error): pass
class SecretNotFoundError(Error): pass
def get(name):
    threads.append(threading.current_thread().name)
    return "hf_secret"
"""


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """The threads that asked for the secret, in a package that answers as google.colab does."""
    package = tmp_path / "site" / "google" / "colab"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "errors.py").write_text("class Error(Exception): pass\n")
    (package / "userdata.py").write_text(USERDATA)
    monkeypatch.syspath_prepend(tmp_path / "site")
    for name in ("google.colab", "google.colab.errors", "google.colab.userdata"):
        # Taken out again at the end.
        monkeypatch.setitem(sys.modules, name, importlib.import_module(name))
    monkeypatch.setattr(_runtime, "_is_google_colab", True)
    monkeypatch.setattr(_auth, "_IS_GOOGLE_COLAB_CHECKED", False)
    monkeypatch.setattr(_auth, "_GOOGLE_COLAB_SECRET", None)
    threads: list[str] = sys.modules["google.colab.userdata"].threads
    return threads


def test_it_is_asked_for_once_and_in_the_main_thread(
    open_panel: Callable[..., Panel], hub: Hub, asked: list[str]
) -> None:
    hub.tokens.add("hf_secret")
    panel = open_panel(only="model")
    panel.model.search.value = "llama"
    panel.model.lookup.wait()
    assert asked == ["MainThread"]
    assert [request.token for request in hub.requests if request.path == "/api/models"] == ["hf_secret"] * 2
