"""A `.gguf` file whose codes are solved on a text: bytes as planned, in the same order, closer in its outputs."""

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

import qtoolkit as qt
from qtoolkit.errors import ConfigError, QToolkitError
from qtoolkit.records import ProgressEvent
from tests.methods.gptq.jobs import TEXTS
from tests.sample_models import few_tokens, random_model

pytestmark = pytest.mark.slow


def solved(quant_type: str = "Q4_0", **changes: Any) -> qt.GGUF:
    return qt.GGUF(quant_type, **{"calibration": TEXTS, "num_samples": 8, "seq_len": 64} | changes)


def values_of(folder: Path) -> dict[str, np.ndarray]:
    """The tensors of the file of a folder, expanded by the `gguf` package."""
    (file,) = folder.glob("*.gguf")
    return {one.name: gguf.dequantize(one.data, one.tensor_type) for one in gguf.GGUFReader(file).tensors}


@pytest.fixture(scope="module")
def result(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> qt.QuantizedModel:
    return qt.quantize(str(tiny_llama), solved(), output=tmp_path_factory.mktemp("solved") / "out", device="cpu")


def test_the_file_is_as_large_as_planned_and_as_without_a_text(result: qt.QuantizedModel, tiny_llama: Path) -> None:
    assert result.path is not None
    (file,) = result.path.glob("*.gguf")
    assert qt.plan(str(tiny_llama), solved(), device="cpu").disk_after == file.stat().st_size
    # With importance, llama.cpp gives the first eighth of the layers another type; two layers have no eighth.
    assert qt.plan(str(tiny_llama), qt.GGUF("Q4_0"), device="cpu").disk_after == file.stat().st_size


def test_the_report_tells_text_and_error_of_each_layer(result: qt.QuantizedModel) -> None:
    calibration = result.report.calibration
    assert calibration is not None
    assert (calibration.num_samples, calibration.seq_len, calibration.perplexity) == (8, 64, None)
    assert len(calibration.layers) == 14
    assert all(0 < layer.error < 0.1 for layer in calibration.layers)
    assert result.receipt is not None
    assert result.receipt.settings["calibration"] == "4 texts"
    assert qt.load(result.path).config == qt.GGUF("Q4_0")


def test_outputs_are_closer_to_the_model_than_without_a_text(
    result: qt.QuantizedModel, tiny_llama: Path, tmp_path: Path
) -> None:
    rounded = qt.quantize(str(tiny_llama), qt.GGUF("Q4_0"), output=tmp_path / "rounded", device="cpu")
    options: dict[str, Any] = {"text": TEXTS, "num_tokens": 256, "seq_len": 64, "base": str(tiny_llama), "speed": False}
    plain, better = (qt.evaluate(str(one.path), **options).kl_divergence for one in (rounded, result))
    assert better < 0.7 * plain


@pytest.mark.parametrize(
    ("architecture", "changes"), [("mixtral", {}), ("qwen3_moe", {"norm_topk_prob": True}), ("gpt2", {})], ids=str
)
def test_each_block_is_where_it_belongs(
    architecture: str, changes: dict[str, Any], smollm2: Path, tmp_path: Path
) -> None:
    """Rows in llama.cpp's order, experts by their numbers: each tensor resembles the one that is rounded by itself."""
    count = few_tokens(smollm2, tmp_path / "model")
    random_model(architecture, vocab_size=count, **changes).save_pretrained(tmp_path / "model")
    for name, config in (("rounded", qt.GGUF("Q4_0")), ("solved", solved())):
        qt.quantize(str(tmp_path / "model"), config, output=tmp_path / name, device="cpu")
    rounded, found = values_of(tmp_path / "rounded"), values_of(tmp_path / "solved")
    assert rounded.keys() == found.keys()
    moved = 0
    for name, values in rounded.items():
        assert np.abs(found[name] - values).max() <= 0.35 * np.abs(values).max(), name
        moved += not np.array_equal(found[name], values)
    assert moved >= 8


def test_a_stopped_job_goes_on_to_the_same_bytes(result: qt.QuantizedModel, tiny_llama: Path, tmp_path: Path) -> None:
    assert result.path is not None

    def stop(event: ProgressEvent) -> None:
        if event.unit == "layers" and event.done == 10:
            raise qt.JobCancelled("stopped")

    with pytest.raises(qt.JobCancelled):
        qt.quantize(str(tiny_llama), solved(), output=tmp_path / "out", device="cpu", on_progress=stop)
    again = qt.quantize(str(tiny_llama), solved(), output=tmp_path / "out", device="cpu")
    assert again.report.calibration is not None
    assert again.report.calibration.resumed == 1
    (first,), (second,) = result.path.glob("*.gguf"), (tmp_path / "out").glob("*.gguf")
    assert first.read_bytes() == second.read_bytes()


def test_a_journal_of_another_type_is_refused(tiny_llama: Path, tmp_path: Path) -> None:
    def stop(event: ProgressEvent) -> None:
        if event.unit == "layers" and event.done == 10:
            raise qt.JobCancelled("stopped")

    with pytest.raises(qt.JobCancelled):
        qt.quantize(str(tiny_llama), solved(), output=tmp_path / "out", device="cpu", on_progress=stop)
    with pytest.raises(QToolkitError, match="quant_type"):
        qt.quantize(str(tiny_llama), solved("Q5_0"), output=tmp_path / "out", device="cpu")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"quant_type": "Q8_0", "calibration": TEXTS}, "Q8_0 has no codes that a text would choose"),
        ({"quant_type": "F16", "calibration": TEXTS}, "F16 has no codes that a text would choose"),
        ({"calibration": TEXTS, "imatrix": "x.gguf"}, "give one of them"),
        ({"num_samples": 16}, "num_samples is of a calibration text"),
        ({"calibration_column": "text"}, "calibration_column is of a calibration text"),
        ({"calibration": TEXTS, "num_samples": 0}, "num_samples must be at least 1, got 0"),
        ({"calibration": TEXTS, "seq_len": 0}, "seq_len must be at least 1, got 0"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_options_that_fit_no_job_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        qt.GGUF(**options)


def test_a_text_that_cannot_be_read_is_refused_before_any_work(tiny_llama: Path, tmp_path: Path) -> None:
    with pytest.raises(QToolkitError, match=r"nowhere\.txt"):
        qt.quantize(str(tiny_llama), solved(calibration="nowhere.txt"), output=tmp_path / "out", device="cpu")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("solve", [True, False])
@pytest.mark.parametrize(
    "types",
    [{"tensor_type": "Q8_0"}, {"rules": {"model.layers.*": {"tensor_type": "F16"}}}],
    ids=["of all", "of all in the blocks"],
)
def test_a_text_that_would_change_nothing_is_refused_before_any_work(
    types: dict[str, Any], tiny_llama: Path, *, solve: bool
) -> None:
    """The embedding, which has few bits in the second, is rounded by itself."""
    with pytest.raises(ConfigError, match="GGUF: calibration would change nothing, since all layers of the blocks"):
        qt.plan(tiny_llama, solved(**types, solve=solve), device="cpu")


def test_a_text_that_changes_some_layers_is_taken(tiny_llama: Path) -> None:
    assert qt.plan(tiny_llama, solved(rules={"*.down_proj": {"tensor_type": "Q8_0"}}), device="cpu").layers
