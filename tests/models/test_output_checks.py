"""An output that is the model's own source, holds it or lies in it, is refused before any work."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

import qtoolkit as qt
from qtoolkit.errors import OutputExistsError
from qtoolkit.models.output_checks import refuse_hub_cache, refuse_own_source
from tests.sample_models import random_model


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "org" / "model"
    random_model("llama").save_pretrained(folder)
    return folder


@pytest.fixture
def model(made: Path, tmp_path: Path) -> Path:
    """The folder of a small model, two folders deep."""
    return Path(shutil.copytree(made, tmp_path / "org" / "model"))


def files(folder: Path) -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def linked_folder(model: Path) -> Path:
    link = model.parent / "link"
    link.symlink_to(model)
    return link


def linked_files(model: Path) -> Path:
    """As the Hub's cache has it: links to files that lie elsewhere."""
    folder = model.parent / "links"
    folder.mkdir()
    for file in model.iterdir():
        (folder / file.name).symlink_to(file)
    return folder


def gguf(model: Path) -> Path:
    (model / "model.gguf").write_bytes(b"GGUF")
    return model / "model.gguf"


def relative(model: Path) -> str:
    return os.path.relpath(model)


def loaded(model: Path) -> object:
    return AutoModelForCausalLM.from_pretrained(model)


@pytest.mark.parametrize(
    "kind", [Path, relative, linked_folder, linked_files, gguf, loaded], ids=lambda kind: kind.__name__
)
@pytest.mark.parametrize(
    ("output", "told"),
    [("org/model", "is|holds"), ("org", "holds"), ("org/model/nf4", "lies in"), ("org/./model", "is|holds")],
    ids=["the source", "what holds it", "in it", "in other words"],
)
def test_it_is_refused(model: Path, tmp_path: Path, kind: Callable[[Path], object], output: str, told: str) -> None:
    named = kind(model)
    if kind in {linked_files, gguf} and told == "lies in":
        # Beside a file there is room for a result.
        refuse_own_source(named, tmp_path / output)
        return
    (tmp_path / "org" / "config.json").write_text("{}")
    before = files(tmp_path)
    refused = rf"{tmp_path}/org.* ({told}) the source {tmp_path}/org.*: name another output$"
    with pytest.raises(OutputExistsError, match=refused):
        qt.quantize(named, "absmax", device="cpu", output=tmp_path / output, overwrite=True)
    with pytest.raises(OutputExistsError, match=refused):
        qt.plan(named, "absmax", device="cpu", output=tmp_path / output)
    assert files(tmp_path) == before


def test_a_linked_parent_does_not_hide_it(model: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").symlink_to(model.parent)
    with pytest.raises(OutputExistsError, match="is the source"):
        qt.quantize(model, "absmax", device="cpu", output=tmp_path / "elsewhere" / "model", overwrite=True)


def test_a_model_of_the_hub_is_not_replaced_in_its_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    snapshot = tmp_path / "models--org--model" / "snapshots" / "0" / "out"
    snapshot.mkdir(parents=True)
    with pytest.raises(OutputExistsError, match=r"lies in the source .*models--org--model"):
        qt.quantize("org/model@main", "absmax", device="cpu", output=snapshot)


def test_what_is_beside_it_is_not(model: Path, tmp_path: Path) -> None:
    for output in ("org/model-absmax", "org/mod", "model", "elsewhere/org/model"):
        refuse_own_source(model, tmp_path / output)
    for named in ("", "org/never seen", None, 3):
        refuse_own_source(named, tmp_path / "out")


def test_saving_a_result_does_not_replace_what_it_was_made_of(model: Path, tmp_path: Path) -> None:
    quantized = qt.quantize(model, "absmax", device="cpu")
    before = files(model)
    with pytest.raises(OutputExistsError, match="is the source"):
        quantized.save(model, overwrite=True)
    assert files(model) == before
    # Itself it may replace.
    saved = quantized.save(tmp_path / "saved")
    quantized.save(saved, overwrite=True)
    qt.load(saved, device="cpu").save(saved, overwrite=True)


@pytest.mark.parametrize("place", ["", "snapshots", "snapshots/0123", "snapshots/0123/deep", "blobs", "link"])
def test_an_output_in_the_hubs_cache_of_any_model_is_refused(tmp_path: Path, place: str) -> None:
    repo = tmp_path / "hub" / "models--org--other"
    (repo / "snapshots" / "0123").mkdir(parents=True)
    (tmp_path / "link").symlink_to(repo / "snapshots")
    output = tmp_path / "link" / "0123" if place == "link" else repo / place
    with pytest.raises(OutputExistsError, match=r"lies in the Hub's cache .*models--org--other\).*name another output"):
        refuse_hub_cache(output)
    refuse_hub_cache(tmp_path / "hub" / "mine")
    refuse_hub_cache(tmp_path / "models--of-mine" / "out")


@pytest.mark.parametrize("place", ["", "model", "model/deep"], ids=["holds", "is", "lies in"])
def test_a_second_name_of_the_sources_folder_is_seen(model: Path, tmp_path: Path, place: str) -> None:
    """As where upper and lower case are one name; here by mounting a folder twice."""
    second, mount, unmount = tmp_path / "second", shutil.which("mount"), shutil.which("umount")
    second.mkdir()
    command = [mount or "", "--bind", model.parent, second]
    if not (mount and unmount) or os.geteuid() or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("this process may not mount a folder")
    try:
        with pytest.raises(OutputExistsError, match=f" the source {model}, which is never written to"):
            refuse_own_source(model, second / place)
    finally:
        subprocess.run([unmount, second], check=True)
