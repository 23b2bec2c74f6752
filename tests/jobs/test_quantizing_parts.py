"""A quantization without calibration on workers: block by block, and the tensors of the job in one process."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import qtoolkit as qt
from qtoolkit.checkpoints.folder import read_weights
from qtoolkit.errors import CheckpointError, DiskFullError, InsufficientMemoryError, JobCancelled
from qtoolkit.jobs.checkpoint_opening import open_source
from qtoolkit.records import ProgressEvent, ignore_progress
from qtoolkit.requests import ModelSource
from qtoolkit.stream import journal
from qtoolkit.stream.loading import load_streamed
from qtoolkit.stream.model_parts import ModelParts
from tests.sample_models import few_tokens, random_model


@pytest.fixture(scope="module")
def tiny_mixtral(tmp_path_factory: pytest.TempPathFactory, smollm2: Path) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny-mixtral"
    random_model("mixtral", vocab_size=few_tokens(smollm2, folder)).save_pretrained(folder)
    return folder


def on_workers(model: Path, config: Any, output: Path, **options: Any) -> qt.QuantizedModel:
    with ThreadPoolExecutor(2) as executor:
        return qt.quantize(model, config, output=output, device="cpu", executor=executor, **options)


def beside(folder: Path) -> dict[str, bytes]:
    """The files of a folder but for its weights and its receipt, which tells when it was made."""
    apart = ("safetensors", "safetensors.index.json", "qtoolkit.json")
    return {file.name: file.read_bytes() for file in folder.iterdir() if not file.name.endswith(apart)}


CASES = {
    "absmax": ("tiny_llama", qt.AbsMax(bits=8, embeddings=8), ()),
    "nf4": ("tiny_llama", qt.NF4(), ()),
    "nf4 of experts": ("tiny_mixtral", qt.NF4(), pytest.mark.long),
    "fp8": ("tiny_llama", qt.FP8(), pytest.mark.long),
    "int8": ("tiny_llama", qt.Int8(), pytest.mark.long),
    "native": ("tiny_llama", qt.ZeroPoint(bits=8, granularity="tensor"), pytest.mark.long),
    "absmax of experts": ("tiny_mixtral", qt.AbsMax(bits=4, granularity="group", group_size=32), pytest.mark.long),
}


@pytest.mark.parametrize(
    ("kind", "config"),
    [pytest.param(kind, config, marks=mark, id=name) for name, (kind, config, mark) in CASES.items()],
)
def test_workers_write_the_tensors_of_one_process(
    kind: str, config: Any, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    model = request.getfixturevalue(kind)
    one = qt.quantize(model, config, output=tmp_path / "one", device="cpu")
    shared = on_workers(model, config, tmp_path / "shared")
    expected, found = read_weights(tmp_path / "one"), read_weights(tmp_path / "shared")
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name][...], found[name][...]) for name in expected)
    assert beside(tmp_path / "one") == beside(tmp_path / "shared")
    files = sorted(file.name for file in (tmp_path / "shared").glob("*.safetensors"))
    assert files == [f"model-{number:05}-of-00003.safetensors" for number in (1, 2, 3)]
    index = json.loads((tmp_path / "shared/model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in expected.values())
    assert shared.memory.footprint_after == one.memory.footprint_after
    assert shared.report.layers == one.report.layers
    assert [path.name for path in tmp_path.iterdir() if path.name not in ("one", "shared")] == []


@pytest.mark.slow
def test_a_job_goes_on_with_the_blocks_that_are_done(tiny_llama: Path, tmp_path: Path) -> None:
    def stop(event: ProgressEvent) -> None:
        if event.phase == "quantize" and event.done == 1:
            raise JobCancelled("stop")

    output = tmp_path / "out"
    with pytest.raises(JobCancelled):
        on_workers(tiny_llama, "absmax", output, on_progress=stop)
    done = list(tmp_path.glob("out.partial/journal/block-*.safetensors"))
    assert done
    made = done[0].stat()
    seen = list[ProgressEvent]()
    on_workers(tiny_llama, "absmax", output, on_progress=seen.append)
    assert next(event.done for event in seen if event.phase == "quantize") == len(done)
    # The file itself was put in place: nothing wrote it again.
    assert made.st_ino in {file.stat().st_ino for file in output.glob("model-*.safetensors")}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (OSError(28, "No space left on device"), DiskFullError, "cannot write beside the output (No space left on"),
        (MemoryError("no room"), InsufficientMemoryError, "ran out of memory (no room): give it more"),
    ],
    ids=["disk", "memory"],
)
def test_a_worker_that_fails_is_named_and_blocks_that_are_done_are_kept(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, kind: Any, said: str
) -> None:
    write, left = journal._write_tensors, iter([True])

    def write_once(*arguments: Any) -> Any:
        if next(left, False):
            return write(*arguments)
        raise error

    monkeypatch.setattr(journal, "_write_tensors", write_once)
    with pytest.raises(kind) as caught:
        on_workers(tiny_llama, "absmax", tmp_path / "out")
    told = str(caught.value)
    assert told.startswith("worker ") and said in told and "\n" not in told
    assert told.endswith("blocks that are done are kept, and the same call goes on with them")
    assert len(list(tmp_path.glob("out.partial/journal/block-*.json"))) == 1


@pytest.mark.slow
def test_a_part_without_one_of_its_weights_is_refused(tiny_llama: Path) -> None:
    parts = ModelParts(open_source(tiny_llama, ModelSource()))
    part, missing = parts.part(1), "model.layers.1.mlp.down_proj.weight"
    own = parts.checkpoint_of(part)
    options: dict[str, Any] = {"device": "cpu", "on_progress": ignore_progress, "part": part}
    load_streamed(own, None, **options)
    lacking = replace(own, tensors={key: own.tensors[key] for key in own.tensors if key != missing})
    with pytest.raises(CheckpointError, match=f"has no weights for {missing}"):
        load_streamed(lacking, None, **options)
