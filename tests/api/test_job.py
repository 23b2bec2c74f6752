"""A job from start to end: what it tells, how it stops, and what it leaves behind."""

import gc
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

import qtoolkit as qt
from qtoolkit.errors import ConfigError, JobCancelled, OutputExistsError, UnsupportedModelError
from qtoolkit.records import ProgressEvent
from tests.models.gguf_models import write_gguf
from tests.sample_models import dequantized, random_model


def test_progress_goes_up_to_the_total_in_each_phase(tiny_llama: Path, tmp_path: Path) -> None:
    events: list[ProgressEvent] = []
    qt.quantize(tiny_llama, "nf4", device="cpu", output=tmp_path / "out", on_progress=events.append)
    assert list(dict.fromkeys(event.phase for event in events)) == ["quantize", "save"]
    for phase in ("quantize", "save"):
        steps = [event for event in events if event.phase == phase]
        assert [event.done for event in steps] == sorted(event.done for event in steps)
        assert steps[-1].done == steps[-1].total
    weights = sum(file.stat().st_size for file in tiny_llama.glob("*.safetensors"))
    assert 0.99 * weights < events[0].total < weights


def _count_models() -> int:
    gc.collect()
    # By type alone: isinstance asks each thing for its class, and some things warn when asked.
    kinds = Counter(map(type, gc.get_objects()))
    return sum(count for kind, count in kinds.items() if issubclass(kind, PreTrainedModel))


@pytest.mark.parametrize("phase", ["quantize", "save"])
@pytest.mark.parametrize("error", [JobCancelled, KeyboardInterrupt], ids=["cancelled", "interrupted"])
def test_a_stopped_job_leaves_nothing(tiny_llama: Path, tmp_path: Path, phase: str, error: type[BaseException]) -> None:
    """Nothing on the disk, and no half-made model behind the traceback, which notebooks keep."""
    earlier = tmp_path / "out"
    qt.quantize(tiny_llama, "int8", device="cpu", output=earlier)
    before = {file.name: file.read_bytes() for file in earlier.iterdir()}
    models_before = _count_models()
    most = 0

    def stop(event: ProgressEvent) -> None:
        nonlocal most
        if event.phase == phase and event.done > event.total / 2:
            most = _count_models()
            raise error("stop")

    with pytest.raises(error) as caught:
        qt.quantize(tiny_llama, "nf4", device="cpu", output=earlier, overwrite=True, on_progress=stop)
    assert caught.value.__traceback__ is not None
    assert most > models_before
    assert _count_models() == models_before
    assert {file.name: file.read_bytes() for file in earlier.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_plain_model_is_loaded_in_what_the_device_has(tiny_llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a T4, which has no bfloat16."""
    monkeypatch.setattr("qtoolkit.planning.device.compute_dtype_for", lambda device, stored: torch.float16)
    assert qt.load(tiny_llama, device="cpu").dtype == torch.float16


def test_a_loaded_model_stays_as_it_is(tmp_path: Path) -> None:
    model = random_model("gpt2")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    quantized = qt.quantize(model, qt.Int8(), device="cpu")
    assert quantized.model is not model
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert {type(module).__name__ for module in model.modules()} & {"Linear8bitLt", "Linear4bit"} == set()
    embeddings = (quantized.model.get_input_embeddings(), model.get_input_embeddings())
    assert embeddings[0].weight.data_ptr() == embeddings[1].weight.data_ptr(), "what is not quantized is shared"


def test_from_a_gguf_file(tmp_path: Path) -> None:
    """As from the folder that transformers makes of it; tests/test_notebooks.py expands SmolLM2's."""
    file, folder = tmp_path / "tiny.gguf", tmp_path / "expanded"
    weights = write_gguf(file)
    AutoModelForCausalLM.from_pretrained(
        tmp_path, gguf_file=file.name, dtype=torch.bfloat16, **dequantized()
    ).save_pretrained(folder)
    quantized = qt.quantize(file, qt.AbsMax(granularity="channel"), device="cpu")
    assert quantized.report.source.format == "gguf"
    assert quantized.report.source.num_parameters == sum(weight.size for weight in weights.values())
    assert any("expanded to bfloat16" in note for note in quantized.report.notes)
    same = qt.quantize(folder, qt.AbsMax(granularity="channel"), device="cpu")
    assert quantized.memory.footprint_before == same.memory.footprint_before
    tokens = torch.arange(1, 17).reshape(1, 16)
    with torch.no_grad():
        assert torch.equal(quantized.model(tokens).logits, same.model(tokens).logits)


def test_generated_text_is_the_new_text_alone(smollm2: Path, capfd: pytest.CaptureFixture[str]) -> None:
    quantized = qt.quantize(smollm2, "int8", device="cpu")
    text = quantized.generate("The capital of France is", max_new_tokens=4)
    assert text.strip().startswith("Paris")
    # A tokenizer takes a list, of which one answer would be lost.
    with pytest.raises(ConfigError, match="prompt must be a text, got list: ask for one text at a time"):
        quantized.generate(["The capital of France is", "One"])  # type: ignore[arg-type]
    assert "inputs will be cast" not in capfd.readouterr().err


def test_a_model_without_a_tokenizer_says_so() -> None:
    quantized = qt.quantize(random_model("llama"), "nf4", device="cpu")
    with pytest.raises(ConfigError, match="LlamaForCausalLM came without a tokenizer: give one as tokenizer="):
        quantized.generate("hello")


def test_save_updates_what_the_report_says(tiny_llama: Path, tmp_path: Path) -> None:
    quantized = qt.quantize(tiny_llama, "fp4", device="cpu")
    assert (quantized.path, quantized.memory.disk_after) == (None, None)
    folder = quantized.save(tmp_path / "saved")
    assert quantized.path == folder
    assert quantized.memory.disk_after == (folder / "model.safetensors").stat().st_size
    with pytest.raises(OutputExistsError, match="exists: name another output, or give overwrite=True"):
        quantized.save(folder)


REFUSED: dict[str, tuple[Callable[[Path], object], type[Exception], str]] = {
    "quantized-twice": (
        lambda model: qt.quantize(qt.quantize(model, "nf4", device="cpu"), "int8"),
        UnsupportedModelError,
        "quantized already",
    ),
    "unknown-method": (lambda model: qt.quantize(model, "gtpq"), ConfigError, "no method 'gtpq'"),
    "unknown-device": (
        lambda model: qt.quantize(model, "nf4", device="tpu"),
        ConfigError,
        "device must be one of auto, cpu",
    ),
    "unknown-dtype": (lambda model: qt.load(model, dtype="int4"), ConfigError, "dtype must be one of auto, bfloat16"),
    "no-model": (lambda model: qt.measure_memory(str(model)), ConfigError, "memory is measured of a model, got str"),
}


@pytest.mark.parametrize(("call", "error", "message"), REFUSED.values(), ids=REFUSED)
def test_bad_input_is_one_line(
    tiny_llama: Path, call: Callable[[Path], object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error) as caught:
        call(tiny_llama)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_output_that_exists_is_refused_before_anything_else(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OutputExistsError, match="exists: name another output"):
        qt.quantize("no/such-model", "nf4", output=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
