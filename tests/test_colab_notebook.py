"""notebooks/colab.ipynb, run with its form filled in, in a kernel that takes itself for Colab's."""

import ast
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import pyarrow as pa
import pytest
from pyarrow import parquet

from qtoolkit.methods import available_methods
from tests.fake_hub.datasets import DatasetHub
from tests.fake_hub.fixture import dataset_hub, environment
from tests.texts.calibration_texts import TEXT

__all__ = ["dataset_hub"]
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


# Colab's machine goes before the second block is stored: this ends the process as it puts it in place.
DISCONNECT = """
import os, sys
def disconnect(event, arguments):
    if event == "os.rename" and str(arguments[1]).endswith("block-00001.json"):
        os._exit(9)
sys.addaudithook(disconnect)
"""


def run(folder: Path, secrets: dict[str, Any], startup: str = "", options: str = "", **filled: Any) -> str:
    """Run the notebook in a folder with these fields of the form, and return what its cells show.

    Args:
        folder: Colab's `/content`.
        secrets: Colab's secrets; None for one that the notebook may not read.
        startup: run as the kernel starts.
        options: further ones of `%quantize`.
        filled: fields of the form; the others are as stored.

    Raises:
        CalledProcessError: a cell raised, or the kernel went.
    """
    notebook = read()
    for cell in notebook.cells:
        cell.source = re.sub("^    %pip .*$", "    pass", cell.source, flags=re.MULTILINE)
        # As little of the text as the model is small.
        cell.source = cell.source.replace(
            "%quantize model --method $method", f"%quantize model --method $method {options}"
        )
        cell.source = PARAM.sub(
            lambda match: f"{match[1]} = {filled.get(match[1], ast.literal_eval(match[2]))!r}", cell.source
        )
    file = folder.parent / "ipython/profile_default/startup/colab.py"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"import google.colab\n{startup}")
    places = os.pathsep.join([str(Path(__file__).parent / "fake_colab"), str(Path(__file__).parents[1])])
    variables = os.environ | {"PYTHONPATH": places, "IPYTHONDIR": str(folder.parent / "ipython")}
    variables["COLAB_SECRETS"] = json.dumps(secrets)
    variables.pop("HF_TOKEN", None)
    notebook.cells.append(nbformat.v4.new_code_cell('print("token:", os.environ.get("HF_TOKEN"))'))
    file = folder / "colab.ipynb"
    nbformat.write(notebook, file)
    # In a process of its own: older versions of jupyter_client leave sockets open.
    command = [sys.executable, "-m", "jupyter", "execute", "--inplace", "--timeout=300", "--startup_timeout=300", file]
    subprocess.run(command, check=True, env=variables)
    return file.read_text(encoding="utf-8")


@pytest.mark.skipif(sys.platform == "win32", reason="Colab is Linux")
def test_it_runs_from_the_form_to_drive_and_goes_on_after_a_disconnect(
    tiny_llama: Path, dataset_hub: DatasetHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    buffer = io.BytesIO()
    parquet.write_table(pa.table({"text": TEXT.split("\n")}), buffer)
    file = "wikitext-2-raw-v1/train-00000-of-00001.parquet"
    dataset_hub.add("datasets/Salesforce/wikitext", {file: buffer.getvalue()})
    dataset_hub.tokens.add(SECRET)
    for name, value in environment(dataset_hub, tmp_path / "hub").items():
        monkeypatch.setenv(name, value)
    folder = tmp_path / "content"
    folder.mkdir()
    (folder / "tiny").symlink_to(tiny_llama)
    form = {"model": "tiny", "method": "gptq", "save_to_drive": True, "options": "--num-samples 2 --seq-len 32"}
    with pytest.raises(subprocess.CalledProcessError):
        run(folder, {}, DISCONNECT, **form)
    saved = folder / "drive/MyDrive/qtoolkit/tiny-gptq"
    assert not saved.exists()
    assert (saved.with_name("tiny-gptq.partial") / "journal/block-00000.json").exists(), "what is done is on Drive"
    shown = run(folder, {"HF_TOKEN": SECRET}, **form)
    assert (saved / "qtoolkit.json").is_file()
    assert "went on" in shown and "done by an earlier call" in shown
    assert "times smaller" in shown and f"token: {SECRET}" in shown
    assert "widget-view" in shown, "the panel"
    before = (saved / "model.safetensors").stat().st_mtime_ns
    shown = run(folder, {}, **form)
    assert (saved / "model.safetensors").stat().st_mtime_ns == before, "it was made again"
    assert "No secret HF_TOKEN" in shown and "token: None" in shown
