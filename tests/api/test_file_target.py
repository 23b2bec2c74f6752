"""A target for a `.gguf` file: never exceeded, met by types that the file holds, the same in plan and job."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from gguf import GGMLQuantizationType, GGUFReader

import qtoolkit as qt
from tests.methods.gptq.jobs import TEXTS

pytestmark = pytest.mark.slow

SOLVED: dict[str, Any] = {"calibration": TEXTS, "num_samples": 4, "seq_len": 64}


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        # Text that the model would write takes seconds.
        patch.setattr("qtoolkit.sensitivity.measuring.text_of", lambda config: TEXTS)
        patch.setattr("qtoolkit.sensitivity.measuring.NUM_SAMPLES", 4)
        yield


def types_in(folder: Path) -> dict[str, int]:
    """The tensors of each type, by the gguf package."""
    (file,) = folder.glob("*.gguf")
    kinds = [GGMLQuantizationType(tensor.tensor_type).name for tensor in GGUFReader(str(file)).tensors]
    return {kind: kinds.count(kind) for kind in kinds}


def bits_in(folder: Path) -> float:
    """Of all matrices of a file, which are what is quantized."""
    (file,) = folder.glob("*.gguf")
    tensors = [tensor for tensor in GGUFReader(str(file)).tensors if len(tensor.shape) > 1]
    return 8 * sum(tensor.n_bytes for tensor in tensors) / sum(tensor.n_elements for tensor in tensors)


@pytest.mark.parametrize("options", [{}, SOLVED], ids=["rounded", "solved"])
def test_plan_and_file_agree_and_keep_to_the_target(options: Any, tiny_llama: Path, tmp_path: Path) -> None:
    config = qt.GGUF(target_bits=6.0, **options)
    plan = qt.plan(tiny_llama, config, device="cpu")
    made = qt.quantize(tiny_llama, config, device="cpu", output=tmp_path / "made")
    (file,) = (tmp_path / "made").glob("*.gguf")
    assert file.stat().st_size == plan.disk_after
    assert 5.9 < bits_in(tmp_path / "made") <= 6
    types = types_in(tmp_path / "made")
    assert len(types) > 3
    told = ", ".join(f"{count} x {kind}" for kind, count in sorted(types.items(), key=lambda item: -item[1]))
    (note,) = [note for note in made.report.notes if note.startswith("tensors in the file")]
    assert sorted(note.split(": ")[1].split("; ")[0].split(", ")) == sorted(told.split(", "))
    assert made.config.to_dict()["rules"] == plan.settings["rules"] != {}
    assert any("target_bits=6: " in note and "nats per token" in note for note in made.report.notes)
    # 5.7 bits are the usual ones of Q5_K_M, 6.56 those of Q6_K.
    assert file.stem.endswith("-Q5_K_M")


def test_the_file_is_never_larger_than_the_target(tiny_llama: Path, tmp_path: Path) -> None:
    target = qt.plan(tiny_llama, qt.GGUF("Q5_1"), device="cpu").disk_after
    made = qt.quantize(tiny_llama, qt.GGUF(target_size=target), device="cpu", output=tmp_path / "made")
    (file,) = (tmp_path / "made").glob("*.gguf")
    assert 0.97 * target < file.stat().st_size <= target
    assert made.memory.disk_after is not None


def test_room_for_all_takes_the_largest_type(tiny_llama: Path) -> None:
    plan = qt.plan(tiny_llama, qt.GGUF(target_bits=9.0), device="cpu")
    assert (plan.settings["quant_type"], plan.settings["tensor_type"]) == ("Q8_0", "Q8_0")
    assert "measure" not in [phase.name for phase in plan.phases]


def test_a_type_of_all_tensors_keeps_to_the_target(tiny_llama: Path) -> None:
    plan = qt.plan(tiny_llama, qt.GGUF(tensor_type="Q4_0", target_bits=5.0), device="cpu")
    assert {8 * layer.disk_bytes / layer.num_weights for layer in plan.layers} == {4.5}
    assert "measure" not in [phase.name for phase in plan.phases]
    refusal = r"GGUF: tensor_type='Q8_0' takes 8\.500 bits per weight, more than target_bits=5: leave it out"
    with pytest.raises(qt.QToolkitError, match=refusal):
        qt.plan(tiny_llama, qt.GGUF(tensor_type="Q8_0", target_bits=5.0), device="cpu")


def test_a_target_is_met_for_a_machine_with_a_gpu_by_what_is_measured_here(tiny_llama: Path) -> None:
    here, there = (
        qt.plan(tiny_llama, qt.GGUF(target_bits=6.0), **where) for where in ({"device": "cpu"}, {"machine": "t4"})
    )
    assert there.device == "cuda:0"
    assert there.settings["rules"] == here.settings["rules"] != {}


def test_too_small_a_target_is_refused(tiny_llama: Path) -> None:
    with pytest.raises(qt.QToolkitError, match=r"GGUF: target_bits=4 is out of reach for .*: it takes 4\.500 bits"):
        qt.plan(tiny_llama, qt.GGUF(target_bits=4.0), device="cpu")


def test_a_job_goes_on_with_the_types_that_it_was_begun_with(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On another machine there is no cache; what is measured there need not be measured."""

    def stop(event: Any) -> None:
        if event.phase == "quantize" and event.detail.startswith("model.layers.1"):
            raise qt.JobCancelled

    config = qt.GGUF(target_bits=6.0, **SOLVED)
    with pytest.raises(qt.JobCancelled):
        qt.quantize(tiny_llama, config, device="cpu", output=tmp_path / "out", on_progress=stop)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "empty"))
    phases = set()
    done = qt.quantize(
        tiny_llama, config, device="cpu", output=tmp_path / "out", on_progress=lambda event: phases.add(event.phase)
    )
    assert done.report.calibration is not None and done.report.calibration.resumed == 1
    assert "measure" not in phases
