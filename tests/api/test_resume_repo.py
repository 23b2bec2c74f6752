"""A job whose machine was taken away goes on elsewhere, from the journal's copy on the Hub."""

import shutil
from pathlib import Path

import pytest

import qtoolkit as qt
from qtoolkit.errors import ConfigError, OutputError, SourceError
from qtoolkit.records import ProgressEvent
from tests.fake_hub.fixture import WRITE_TOKEN
from tests.fake_hub.server import Fault
from tests.fake_hub.writable import WritableHub
from tests.methods.gptq.jobs import gptq


class Gone(Exception):
    pass


def begin(model: Path, output: Path) -> None:
    """Run until the first block is done, and lose everything."""

    def on_progress(event: ProgressEvent) -> None:
        if event.phase == "quantize" and event.done == 9:
            raise Gone

    with pytest.raises(Gone):
        run(model, output, on_progress=on_progress)
    shutil.rmtree(output.with_name(f"{output.name}.partial"))


def run(model: Path, output: Path, **options: object) -> qt.QuantizedModel:
    config = options.pop("config", gptq())
    return qt.quantize(model, config, output=output, device="cpu", resume_repo="me/run", token=WRITE_TOKEN, **options)


def test_goes_on_elsewhere(writable_hub: WritableHub, tiny_llama: Path, tmp_path: Path) -> None:
    begin(tiny_llama, tmp_path / "first")
    result = run(tiny_llama, tmp_path / "second")
    assert result.report.calibration is not None and result.report.calibration.resumed == 1
    whole = qt.quantize(tiny_llama, gptq(), output=tmp_path / "whole", device="cpu")
    assert whole.report.calibration is not None and whole.report.calibration.resumed == 0
    first, second = (tmp_path / name / "model.safetensors" for name in ("second", "whole"))
    assert first.read_bytes() == second.read_bytes()
    assert not list(tmp_path.glob("*/journal"))


def test_no_file_of_the_result_names_the_token(writable_hub: WritableHub, tiny_llama: Path, tmp_path: Path) -> None:
    run(tiny_llama, tmp_path / "out")
    holders = [file for file in tmp_path.rglob("*") if file.is_file() and WRITE_TOKEN.encode() in file.read_bytes()]
    assert not holders
    kept = writable_hub.repositories["me/run"]
    assert not any(WRITE_TOKEN.encode() in data for files in kept.commits.values() for data in files.values())


def test_a_hub_that_fails_in_the_middle_is_told(writable_hub: WritableHub, tiny_llama: Path, tmp_path: Path) -> None:
    writable_hub.add("me/run", {".gitattributes": b""}, private=True)
    writable_hub.faults.append(Fault("/preupload/", status=400))
    result = run(tiny_llama, tmp_path / "out")
    assert any("of the journal are here alone, not in me/run" in note for note in result.report.notes)


def test_another_recipe_is_refused(writable_hub: WritableHub, tiny_llama: Path, tmp_path: Path) -> None:
    begin(tiny_llama, tmp_path / "first")
    with pytest.raises(OutputError, match=r"bits 4, and this call has 8.*name another resume_repo than me/run"):
        run(tiny_llama, tmp_path / "second", config=gptq(bits=8))
    assert not (tmp_path / "second").exists()


@pytest.mark.parametrize(
    ("options", "error", "told"),
    [
        ({"resume_repo": "me/run", "token": "hf_wrong"}, SourceError, "does not accept the token"),
        ({"resume_repo": "no id at all"}, SourceError, "is no Hub id"),
        ({"resume_repo": "me/run", "config": qt.AbsMax()}, ConfigError, "resume_repo='me/run' needs"),
        ({"resume_repo": "me/run", "output": None}, ConfigError, "resume_repo='me/run' needs"),
        ({"resume_repo": "me/run", "resume": False}, ConfigError, "goes on with what is there.*give one"),
    ],
    ids=["unknown token", "no repository id", "method without a journal", "no output", "resume=False"],
)
def test_refused_before_any_work(
    options: dict[str, object],
    error: type[Exception],
    told: str,
    writable_hub: WritableHub,
    tiny_llama: Path,
    tmp_path: Path,
) -> None:
    call = {"config": gptq(), "output": tmp_path / "out", "device": "cpu", "token": WRITE_TOKEN} | options
    events: list[ProgressEvent] = []
    with pytest.raises(error, match=told):
        qt.quantize(tiny_llama, call.pop("config"), on_progress=events.append, **call)
    assert not [event for event in events if event.phase == "quantize"]
    assert not list(tmp_path.iterdir())
