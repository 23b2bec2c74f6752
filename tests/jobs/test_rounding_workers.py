"""A `.gguf` file whose tensors workers have rounded is, byte for byte, the one of a single process."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import qtoolkit as qt
from qtoolkit.errors import ConfigError, DiskFullError, JobCancelled, UnsupportedModelError
from qtoolkit.jobs import file_workers, shared_parts
from qtoolkit.records import ProgressEvent
from tests.jobs.test_imatrix_option import imatrix_file
from tests.sample_models import few_tokens, random_model

pytestmark = pytest.mark.slow


@pytest.fixture
def tiny_mixtral(tmp_path: Path, smollm2: Path) -> Path:
    folder = tmp_path / "tiny-mixtral"
    random_model("mixtral", vocab_size=few_tokens(smollm2, folder)).save_pretrained(folder)
    return folder


def on_workers(model: Path, config: Any, output: Path, **options: Any) -> qt.QuantizedModel:
    with ThreadPoolExecutor(2) as executor:
        return qt.quantize(model, config, output=output, device="cpu", executor=executor, **options)


def files_of(folder: Path) -> dict[str, bytes]:
    """The files of a folder but for its receipt, which tells when it was made."""
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.name != "qtoolkit.json"}


def stop_after_two(event: ProgressEvent) -> None:
    if event.unit == "blocks" and event.done == 2:
        raise JobCancelled("stop")


def test_workers_make_the_file_of_one_process_whatever_stops_them(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With an importance that they read from a copy: the path that was given may be another's where a worker runs."""
    width = json.loads((tiny_llama / "config.json").read_text())["intermediate_size"]
    config = qt.GGUF("Q4_0", imatrix=str(imatrix_file(tmp_path / "private", width)))
    one = qt.quantize(tiny_llama, config, output=tmp_path / "one", device="cpu")
    named = list[str]()
    opened = file_workers._opened

    def opened_with(opens: Any, own: Any, *others: Any) -> Any:
        named.append(own.imatrix)
        return opened(opens, own, *others)

    monkeypatch.setattr(file_workers, "_opened", opened_with)
    with pytest.raises(JobCancelled):
        on_workers(tiny_llama, config, tmp_path / "shared", on_progress=stop_after_two)
    done = len(list(tmp_path.glob("shared.partial/journal/block-*.safetensors")))
    seen = list[ProgressEvent]()
    shared = on_workers(tiny_llama, config, tmp_path / "shared", on_progress=seen.append)
    assert done >= 2
    assert next(event.done for event in seen if event.unit == "blocks") == done
    assert {Path(name).parents[1] for name in named} == {tmp_path / "shared.partial"}
    assert files_of(tmp_path / "one") == files_of(tmp_path / "shared")
    assert shared.memory.footprint_after == one.memory.footprint_after
    assert shared.report.notes == one.report.notes
    assert shared.receipt is not None and one.receipt is not None
    assert shared.receipt.probe == one.receipt.probe is not None
    assert {path.name for path in tmp_path.iterdir()} == {"one", "private", "shared"}


@pytest.mark.long
def test_workers_make_stacks_of_experts(tiny_mixtral: Path, tmp_path: Path) -> None:
    qt.quantize(tiny_mixtral, qt.GGUF("Q4_0"), output=tmp_path / "one", device="cpu")
    on_workers(tiny_mixtral, qt.GGUF("Q4_0"), tmp_path / "shared")
    assert files_of(tmp_path / "one") == files_of(tmp_path / "shared")


REFUSED: dict[str, tuple[Any, str]] = {
    "solved": (qt.GGUF("Q4_0", calibration=["a"]), r"shards=16, .* on the workers\)$"),
    "weighed": (
        qt.GGUF("Q4_0", calibration=["a"], solve=False),
        "leave out executor, or solve=False, or give",
    ),
}


@pytest.mark.parametrize(("config", "said"), REFUSED.values(), ids=REFUSED)
def test_a_text_is_refused(tiny_llama: Path, tmp_path: Path, config: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        on_workers(tiny_llama, config, tmp_path / "out")
    assert not list(tmp_path.iterdir())


@pytest.mark.long
def test_a_source_that_is_read_as_a_whole_is_refused(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qtoolkit.formats.gguf.file_planner.GGUFPlanner.parts", lambda planner: ())
    with pytest.raises(UnsupportedModelError, match="read as a whole, which workers cannot share: leave out executor"):
        on_workers(tiny_llama, qt.GGUF("Q4_0"), tmp_path / "out")


def test_no_room_for_the_tensors_beside_the_file_is_said_before_work(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_parts, "free_disk", lambda folder: 300_000)
    with pytest.raises(DiskFullError, match=r"workers leave .* beside the result, of the same size, until") as caught:
        on_workers(tiny_llama, qt.GGUF("Q4_0"), tmp_path / "out")
    assert "300.0 kB are free: free some room" in str(caught.value) and "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())
