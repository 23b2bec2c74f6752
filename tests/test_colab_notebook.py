"""notebooks/colab.ipynb, run with its form filled in, in a kernel that takes itself for Colab's."""

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest

from qtoolkit.methods import available_methods

FILE = Path(__file__).parent.parent / "notebooks/colab.ipynb"
SECRET = "hf_of_a_secret"  # noqa: S105
PARAM = re.compile(r"^(\w+) = (.+?)  # @param (.+)$", re.MULTILINE)


def read() -> nbformat.NotebookNode:
    return nbformat.read(FILE, as_version=4)


def form() -> nbformat.NotebookNode:
    (cell,) = [cell for cell in read().cells if "# @param" in cell.source]
    return cell


@pytest.mark.once
def test_the_form_can_be_shown_and_offers_methods_that_exist() -> None:
    assert form().metadata["cellView"] == "form"
    kinds = {name: json.loads(re.sub("type:", '"type":', kind)) for name, _, kind in PARAM.findall(form().source)}
    assert list(kinds) == ["model", "method", "task", "save_to_drive", "publish_to"]
    assert set(kinds["method"]) <= set(available_methods())
    for name, value, kind in PARAM.findall(form().source):
        assert not kind.startswith("[") or json.loads(value) in kinds[name]


@pytest.mark.once
def test_it_asks_for_a_t4_and_holds_no_output() -> None:
    notebook = read()
    nbformat.validate(notebook)
    assert (notebook.metadata.accelerator, notebook.metadata.colab.gpuType) == ("GPU", "T4")
    assert not any(cell.get("outputs") for cell in notebook.cells)


def run(folder: Path, monkeypatch: pytest.MonkeyPatch, secrets: dict[str, Any], **filled: Any) -> str:
    """Run the notebook in a folder with these fields of the form, and return what its cells show."""
    notebook = read()
    for cell in notebook.cells:
        cell.source = re.sub("^    %pip .*$", "    pass", cell.source, flags=re.MULTILINE)
        cell.source = PARAM.sub(
            lambda match: f"{match[1]} = {filled.get(match[1], ast.literal_eval(match[2]))!r}", cell.source
        )
    startup = folder.parent / "ipython/profile_default/startup"
    startup.mkdir(parents=True, exist_ok=True)
    (startup / "colab.py").write_text("import google.colab\n")
    places = os.pathsep.join([str(Path(__file__).parent / "fake_colab"), str(Path(__file__).parents[1])])
    monkeypatch.setenv("PYTHONPATH", places)
    monkeypatch.setenv("IPYTHONDIR", str(startup.parents[1]))
    monkeypatch.setenv("COLAB_SECRETS", json.dumps(secrets))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    notebook.cells.append(nbformat.v4.new_code_cell('print("token:", os.environ.get("HF_TOKEN"))'))
    file = folder / "colab.ipynb"
    nbformat.write(notebook, file)
    # In a process of its own: older versions of jupyter_client leave sockets open.
    subprocess.run([sys.executable, "-m", "jupyter", "execute", "--inplace", "--timeout=300", file], check=True)
    return file.read_text(encoding="utf-8")


@pytest.mark.skipif(sys.platform == "win32", reason="Colab is Linux")
def test_it_runs_from_the_form_to_drive_and_goes_on_after_a_disconnect(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "content"
    folder.mkdir()
    (folder / "tiny").symlink_to(tiny_llama)
    secrets = {"HF_TOKEN": SECRET}
    shown = run(folder, monkeypatch, secrets, model="tiny", method="absmax", save_to_drive=True)
    saved = folder / "drive/MyDrive/qtoolkit/tiny-absmax"
    assert (saved / "qtoolkit.json").is_file()
    assert "times smaller" in shown and f"token: {SECRET}" in shown
    assert "widget-view" in shown, "the panel"
    before = (saved / "model.safetensors").stat().st_mtime_ns
    shown = run(folder, monkeypatch, {}, model="tiny", method="absmax", save_to_drive=True)
    assert (saved / "model.safetensors").stat().st_mtime_ns == before, "it was made again"
    assert "No secret HF_TOKEN" in shown and "token: None" in shown
