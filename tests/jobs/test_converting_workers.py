"""A conversion whose blocks workers have made is, byte for byte, that of a single process."""

import pickle
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import qtoolkit as qt
from qtoolkit.errors import ConfigError, DiskFullError, JobCancelled
from qtoolkit.jobs import shared_parts
from qtoolkit.records import Conversion, ProgressEvent
from tests.jobs.file_weights import gptq

pytestmark = pytest.mark.slow

CASES: dict[str, tuple[Callable[[Path], Path], str, dict[str, Any], Any]] = {
    "MLX": (gptq, "mlx", {}, ()),
    "a file, minima rounded": (lambda folder: gptq(folder, sym=False), "gguf", {"lossy": True}, ()),
    "experts": (lambda folder: gptq(folder, architecture="mixtral"), "compressed-tensors", {}, pytest.mark.long),
    "a file of experts": (lambda folder: gptq(folder, architecture="mixtral"), "gguf", {}, pytest.mark.long),
}


class Pickling(ThreadPoolExecutor):
    """Hands each task on as another process gets it."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        task = pickle.dumps((fn, args))
        assert b"hf_secret" not in task
        function, arguments = pickle.loads(task)  # noqa: S301
        return super().submit(function, *arguments)


def on_workers(source: Path, format_: str, output: Path, **options: Any) -> Conversion:
    with Pickling(2) as executor:
        return qt.convert(source, format_, output, executor=executor, token="hf_secret", **options)  # noqa: S106


def files_of(folder: Path) -> dict[str, bytes]:
    """The files of a folder but for its receipt, which tells when it was made."""
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.name != "qtoolkit.json"}


def stop_after_one(event: ProgressEvent) -> None:
    if event.unit == "blocks" and event.done == 1:
        raise JobCancelled("stop")


@pytest.mark.parametrize(
    ("write", "format_", "options"),
    [pytest.param(*case[:3], marks=case[3], id=title) for title, case in CASES.items()],
)
def test_workers_make_the_files_of_one_process_whatever_stops_them(
    write: Callable[[Path], Path], format_: str, options: dict[str, Any], tmp_path: Path
) -> None:
    source = write(tmp_path / "source")
    one = qt.convert(source, format_, tmp_path / "one", **options)
    with pytest.raises(JobCancelled):
        on_workers(source, format_, tmp_path / "shared", on_progress=stop_after_one, **options)
    done = len(list(tmp_path.glob("shared.partial/journal/block-*.safetensors")))
    seen = list[ProgressEvent]()
    shared = on_workers(source, format_, tmp_path / "shared", on_progress=seen.append, **options)
    assert next(event.done for event in seen if event.unit == "blocks") == done >= 1
    assert files_of(tmp_path / "one") == files_of(tmp_path / "shared")
    assert shared.notes == one.notes
    assert {path.name for path in tmp_path.iterdir()} == {"one", "shared", "source"}


def test_what_another_conversion_left_is_dropped(tmp_path: Path) -> None:
    source = gptq(tmp_path / "source")
    with pytest.raises(JobCancelled):
        on_workers(source, "mlx", tmp_path / "out", on_progress=stop_after_one)
    seen = list[ProgressEvent]()
    on_workers(source, "compressed-tensors", tmp_path / "out", on_progress=seen.append)
    assert next(event.done for event in seen if event.unit == "blocks") == 0


def test_no_room_for_the_blocks_beside_the_result_is_said_before_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = gptq(tmp_path / "source")
    monkeypatch.setattr(shared_parts, "free_disk", lambda folder: 1000)
    with pytest.raises(DiskFullError, match=r"workers leave .* beside the result, of the same size, until it is"):
        on_workers(source, "mlx", tmp_path / "out")
    assert not (tmp_path / "out.partial").exists()


def test_an_adapter_is_refused(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    (tmp_path / "adapter_model.safetensors").touch()
    with pytest.raises(ConfigError, match="is an adapter, which is converted in one process: leave out executor"):
        on_workers(tmp_path, "gguf", tmp_path / "out")
