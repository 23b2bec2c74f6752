"""What commit 57f0d5b wrote is read: models, records, kept results, journals and a notebook."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch

import qtoolkit as qt
from qtoolkit import records
from qtoolkit.errors import OutputError, OutputExistsError
from qtoolkit.methods import MethodConfig
from tests.data.written_by_57f0d5b.make import COMPARED, TEXTS, configs
from tests.fake_hub.fixture import WRITE_TOKEN, writable_hub
from tests.fake_hub.writable import WritableHub
from tests.publishing.conftest import run_here

__all__ = ["run_here", "writable_hub"]

WRITTEN = Path(__file__).parents[1] / "data/written_by_57f0d5b"
BASE = WRITTEN / "base"
LATER = WRITTEN.with_name("written_by_ba6b92d")


def files(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache of the user who had called that commit."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return Path(shutil.copytree(WRITTEN / "cache", tmp_path / "cache"))


@pytest.mark.parametrize("name", configs())
def test_a_model_loads_and_is_saved_as_it_was(name: str, tmp_path: Path) -> None:
    model = qt.load(WRITTEN / "models" / name, device="cpu")
    assert isinstance(model, qt.QuantizedModel) and model.receipt is not None
    assert model.config.method == model.receipt.method
    with torch.no_grad():
        assert model.model(torch.arange(32)[None]).logits.isfinite().all()
    again = model.save(tmp_path / "again")
    assert (again / "model.safetensors").read_bytes() == (WRITTEN / "models" / name / "model.safetensors").read_bytes()


@pytest.mark.usefixtures("run_here")
@pytest.mark.parametrize("name", configs())
def test_a_model_is_verified_and_published(name: str, writable_hub: WritableHub) -> None:
    folder = WRITTEN / "models" / name
    published = qt.publish(folder, f"me/{name}", base=BASE, token=WRITE_TOKEN)
    assert published.commit_hash is not None
    on_hub = writable_hub.repositories[f"me/{name}"].commits[published.commit_hash]
    assert files(folder).items() <= on_hub.items()
    # The base has no chat template, and no gptqmodel is installed.
    not_made = {check.name for check in published.verification.checks if check.passed is None}
    assert not_made <= {"chat template", "loads in gptqmodel"}


@pytest.mark.parametrize(
    "values",
    json.loads((WRITTEN / "records.json").read_bytes()),
    ids=lambda values: values["record"],
)
def test_a_record_is_read(values: dict[str, Any]) -> None:
    record = getattr(records, values["record"]).from_dict(values)
    assert_within(values, json.loads(json.dumps(record.to_dict())))
    assert record.rows() and record._repr_html_()


def assert_within(old: Any, new: Any) -> None:
    """Every value is there; fields may have been added."""
    if isinstance(old, dict):
        assert old.keys() <= new.keys()
        for key in old:
            assert_within(old[key], new[key])
    elif isinstance(old, list):
        assert len(old) == len(new)
        for pair in zip(old, new, strict=True):
            assert_within(*pair)
    else:
        assert old == new


def as_then(config: MethodConfig) -> MethodConfig:
    """The config as that commit took it, which wrote absmax in its own format."""
    return replace(config, format="native") if isinstance(config, qt.AbsMax) else config


@pytest.mark.usefixtures("cache")
def test_kept_results_of_a_comparison_are_taken(tmp_path: Path) -> None:
    kept = shutil.copytree(WRITTEN / "comparison", tmp_path / "comparison")
    options: dict[str, Any] = {"text": TEXTS, "seq_len": 64, "num_tokens": 512, "device": "cpu", "output": kept}
    again = qt.compare(BASE, [None, *(as_then(configs()[name]) for name in COMPARED)], **options)
    assert any("3 results were kept by an earlier call" in note for note in again.notes), again.notes
    assert files(kept) == files(WRITTEN / "comparison")


def test_the_kept_sensitivity_of_layers_is_taken(cache: Path) -> None:
    config = qt.AbsMax(bits=4, granularity="group", target_bits=6.0, format="native")
    plan = qt.plan(BASE, config, machine="cpu-12gb", device="cpu")
    assert {layer.bits for layer in plan.layers} == {4, 8}
    assert len(list((cache / "qtoolkit/sensitivity").iterdir())) == 1


def test_a_journal_without_a_marker_is_kept_and_refused_in_one_line(tmp_path: Path) -> None:
    partial = shutil.copytree(WRITTEN / "unfinished", tmp_path / "out.partial")
    with pytest.raises(OutputExistsError, match="does not carry qtoolkit's marker, so it is left as it is") as caught:
        qt.quantize(BASE, configs()["gptq"], output=tmp_path / "out", device="cpu")
    assert len(str(caught.value).splitlines()) == 1
    assert files(partial) == files(WRITTEN / "unfinished")


def test_the_journal_of_a_later_commit_goes_on_without_options_of_today(tmp_path: Path) -> None:
    shutil.copytree(LATER / "unfinished", tmp_path / "out.partial")
    # The default of then.
    config = replace(configs()["gptq"], damp_percent=0.01)
    assert isinstance(config, qt.GPTQ)
    with pytest.raises(OutputError, match=r"was begun with full_range False, and this call has True"):
        qt.quantize(BASE, config, output=tmp_path / "out", device="cpu")
    done = qt.quantize(BASE, replace(config, **config.absent()), output=tmp_path / "out", device="cpu").report
    assert done.calibration is not None and done.calibration.resumed == 1
    assert not (tmp_path / "out.partial").exists()


@pytest.mark.parametrize("name", configs())
def test_options_that_it_did_not_have_are_off(name: str) -> None:
    model = qt.load(WRITTEN / "models" / name, device="cpu")
    assert isinstance(model, qt.QuantizedModel) and model.receipt is not None
    later = {field.name for field in fields(model.config)} - model.receipt.settings.keys()
    assert later == model.config.absent().keys()
    assert {option: getattr(model.config, option) for option in later} == model.config.absent()


@pytest.mark.slow
def test_a_notebook_runs(tmp_path: Path) -> None:
    shutil.copytree(BASE, tmp_path / "base")
    shutil.copy(WRITTEN / "texts.txt", tmp_path)
    shutil.copy(WRITTEN / "notebook.ipynb.json", tmp_path / "notebook.ipynb")
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    command = [sys.executable, "-m", "jupyter", "execute", "--timeout=600", tmp_path / "notebook.ipynb"]
    subprocess.run(command, check=True, env=environment, cwd=tmp_path)
