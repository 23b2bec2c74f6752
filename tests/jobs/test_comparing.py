"""Forms of a model side by side: each as if measured by itself, the base read once."""

from pathlib import Path

import pytest
import torch

import qtoolkit as qt
from qtoolkit.errors import JobCancelled
from qtoolkit.measure.footprint import memory_footprint
from qtoolkit.records import Comparison, ProgressEvent
from tests.jobs.compared import TEXT, compare
from tests.methods.gptq.jobs import TEXTS, gptq
from tests.sample_models import random_model

pytestmark = pytest.mark.slow

PROMPT = "The boat"


@pytest.fixture(scope="module")
def saved(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A quantized checkpoint."""
    folder = tmp_path_factory.mktemp("saved") / "int8"
    qt.quantize(tiny_llama, "int8", device="cpu", output=folder)
    return folder


@pytest.fixture(scope="module")
def events() -> list[ProgressEvent]:
    return []


@pytest.fixture(scope="module")
def compared(
    tiny_llama: Path, saved: Path, tmp_path_factory: pytest.TempPathFactory, events: list[ProgressEvent]
) -> Comparison:
    """Full precision, five methods, one of them calibrated, two that round inputs, and a folder."""
    configs = [None, "nf4", qt.AbsMax(bits=4), gptq(bits=3), qt.FP8(), qt.W8A8(), saved]
    kept = tmp_path_factory.mktemp("kept")
    return compare(tiny_llama, configs, kept, prompts=[PROMPT], memory="1 GB", on_progress=events.append)


def test_each_is_measured_as_evaluate_measures_it(tiny_llama: Path, saved: Path, compared: Comparison) -> None:
    configs = (qt.NF4(), qt.FP8(), qt.W8A8())
    alone = {f"{type(config).__name__}()": qt.quantize(tiny_llama, config, device="cpu") for config in configs}
    for label, model in {**alone, str(saved): saved}.items():
        options = {"seq_len": 32, "num_tokens": 96, "device": "cpu", "speed": False}
        expected = qt.evaluate(model, base=tiny_llama, text=TEXT, **options)
        (found,) = [result.quality for result in compared.results if result.label == label]
        assert found is not None
        assert found.kl_divergence == expected.kl_divergence > 0
        assert found.perplexity == expected.perplexity
        assert found.text_fingerprint == expected.text_fingerprint == compared.text_fingerprint


def test_sizes_are_those_of_the_models(tiny_llama: Path, saved: Path, compared: Comparison) -> None:
    quantized = qt.quantize(tiny_llama, "nf4", device="cpu")
    full = qt.load(tiny_llama, device="cpu")
    config = full.config
    # Keys and values of what the model reads at most, in bfloat16, and a row of logits in float32.
    context = min(4096, config.max_position_embeddings)
    heads = config.num_key_value_heads * (config.hidden_size // config.num_attention_heads)
    beside = 2 * config.num_hidden_layers * heads * context * 2 + 4 * config.vocab_size
    footprints = {"NF4()": memory_footprint(quantized.model), "full precision": memory_footprint(full)}
    for label, footprint in footprints.items():
        (result,) = [result for result in compared.results if result.label == label]
        assert (result.footprint, result.memory) == (footprint, footprint + beside)
        assert result.bits_per_weight == 8 * footprint / full.num_parameters()
    (read,) = [result for result in compared.results if result.label == str(saved)]
    assert (read.method, read.disk) == ("int8", sum(file.stat().st_size for file in saved.glob("*.safetensors")))


def test_answers_are_what_generate_writes(tiny_llama: Path, compared: Comparison) -> None:
    (result,) = [result for result in compared.results if result.label == "NF4()"]
    assert result.answers == (qt.quantize(tiny_llama, "nf4", device="cpu").generate(PROMPT),)


def test_the_base_reads_the_text_once(events: list[ProgressEvent], compared: Comparison) -> None:
    blocks = [event for event in events if (event.phase, event.unit) == ("evaluate", "blocks")]
    assert [(event.done, event.total) for event in blocks] == [(1, 2), (2, 2)]
    assert [event.done for event in events if event.phase == "compare"] == [1, 2, 3, 4, 5, 6, 7]


def test_the_best_is_what_lost_least_among_those_that_fit(compared: Comparison) -> None:
    lost = [result.kl_divergence for result in compared.results]
    assert lost == sorted(lost) and lost[0] == 0
    assert compared.results[0].label == "full precision"
    assert compared.best is compared.results[1]


def test_a_form_that_fails_gets_a_line_and_the_others_go_on(tiny_llama: Path, tmp_path: Path) -> None:
    # Long enough to share passages.
    longer = {"seq_len": 64, "num_tokens": 640}
    found = compare(tiny_llama, [gptq(calibration=TEXT, num_samples=16), "nf4"], tmp_path, **longer)
    good, bad = found.results
    assert (good.label, good.error) == ("NF4()", "")
    assert bad.error.startswith("ConfigError: ")
    assert "calibrated on" in bad.error
    assert bad.quality is None
    assert found.best is good
    assert len(list(tmp_path.iterdir())) == 1
    # Neither text stands in what was kept, nor in what is shown.
    written = "".join(file.read_text() for file in tmp_path.iterdir()) + str(found.to_dict())
    assert TEXT[0] not in written and TEXTS[0][:40] not in written


def test_a_loaded_model_is_compared_and_stays_as_it_is(tiny_llama: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    model = random_model("llama", vocab_size=len(tokenizer))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = compare(model, [None, "absmax"], tmp_path, tokenizer=tokenizer)
    assert [result.error for result in found.results] == ["", ""]
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_what_rounding_does_is_measured_once(tiny_llama: Path, tmp_path: Path) -> None:
    events: list[ProgressEvent] = []
    found = compare(tiny_llama, ["nf4", "absmax"], tmp_path, noise_floor=True, speed=False, on_progress=events.append)
    options = {"seq_len": 32, "num_tokens": 96, "device": "cpu", "speed": False, "noise_floor": True}
    expected = qt.evaluate(qt.quantize(tiny_llama, "nf4", device="cpu"), base=tiny_llama, text=TEXT, **options)
    assert found.noise_floor == expected.noise_floor
    assert found.results[0].quality is not None and found.results[0].quality.speed is None
    assert "tokens/s" not in found.picture() + "".join(found.results[0].cells())
    # The base, and once more in float32, two blocks each.
    assert len([event for event in events if event.unit == "blocks"]) == 4


@pytest.mark.parametrize("error", [JobCancelled, KeyboardInterrupt], ids=["cancelled", "interrupted"])
def test_what_is_done_is_kept_when_the_job_is_stopped(
    tiny_llama: Path, tmp_path: Path, error: type[BaseException]
) -> None:
    def stop(event: ProgressEvent) -> None:
        if event.phase == "compare":
            raise error("stop")

    with pytest.raises(error):
        compare(tiny_llama, ["absmax", "nf4"], tmp_path, on_progress=stop)
    assert len(list(tmp_path.iterdir())) == 1
    events: list[ProgressEvent] = []
    found = compare(tiny_llama, ["absmax", "nf4"], tmp_path, on_progress=events.append)
    assert [event.done for event in events if event.phase == "compare"] == [2]
    assert {result.label for result in found.results} == {"AbsMax()", "NF4()"}
    assert "1 result was kept by an earlier call: resume=False measures anew" in found.notes
