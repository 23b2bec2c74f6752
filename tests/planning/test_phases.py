"""What the phases of a job take: sums with named parts, checked against a calculation of their own."""

from pathlib import Path

import pytest
import torch

import qtoolkit as qt
from qtoolkit.errors import ConfigError, UnsupportedModelError
from qtoolkit.methods.gptq.hidden_states import where_states_wait
from qtoolkit.records import Machine, PhasePlan, Plan
from tests.methods.gptq.jobs import gptq
from tests.sample_models import config_of, random_model


def size_of(phase: PhasePlan, name: str) -> int:
    (found,) = (term.size for term in (*phase.memory, *phase.vram) if term.name == name)
    return found


def phase_of(plan: Plan, name: str) -> PhasePlan:
    return next(phase for phase in reversed(plan.phases) if phase.name == name)


@pytest.mark.parametrize("method", ["nf4", "int8", "absmax", "gptq"])
@pytest.mark.parametrize("machine", ["cpu-12gb", "a100-80"])
def test_every_part_has_a_name_and_a_source(method: str, machine: str) -> None:
    plan = qt.plan(config_of("7b"), method, machine=machine)
    assert plan.peak_rss == max(sum(term.size for term in phase.memory) for phase in plan.phases)
    assert plan.peak_vram == max(sum(term.size for term in phase.vram) for phase in plan.phases)
    terms = [term for phase in (*plan.phases, plan.inference) for term in (*phase.memory, *phase.vram)]
    assert all(term.name and term.source and term.size >= 0 for term in terms)
    assert (plan.peak_vram > 0) == (plan.device != "cpu")
    assert all(0 < min(phase.seconds) <= max(phase.seconds) for phase in plan.phases if phase.seconds)
    assert all(term.name in plan.terms() for term in terms)


def test_the_result_is_in_memory_on_a_cpu_and_on_the_gpu_elsewhere() -> None:
    here, there = (qt.plan(config_of("7b"), "nf4", machine="a100-80", device=device) for device in ("cpu", "cuda"))
    assert size_of(phase_of(here, "quantize"), "quantized model") == here.footprint_after
    assert phase_of(here, "quantize").vram == ()
    assert phase_of(there, "quantize").peak_rss < here.footprint_after < phase_of(there, "quantize").peak_vram


def test_a_file_is_probed_block_by_block() -> None:
    """Llama-2 7B: no more than its embedding and its head in 16 bits, which is more than the largest block."""
    plan = qt.plan(config_of("7b"), qt.GGUF("Q4_K_M"), machine="cpu-12gb")
    assert [phase.name for phase in plan.phases] == ["quantize", "verify"]
    phase = phase_of(plan, "verify")
    assert size_of(phase, "what stands around the blocks") == 2 * (2 * 32000 * 4096 + 4096)
    assert size_of(phase, "logits of the probe") == 3 * 32 * 32000 * 4
    assert phase.bytes_moved == plan.disk_after
    assert plan.peak_rss < 2e9 < plan.footprint_after


def test_gptq_follows_the_block_and_not_the_model() -> None:
    """Llama-2 7B, 32 samples of 512 tokens by hand; float16 runs in float32 on a CPU, which has no products of it."""
    plan = qt.plan(config_of("7b"), qt.GPTQ(num_samples=32, seq_len=512, qep_alpha=0), machine="cpu-12gb")
    phase, tokens = phase_of(plan, "quantize"), 32 * 512
    # Twice, since one batch after the other runs through a block.
    assert size_of(phase, "hidden states of the samples") == 2 * tokens * 4096 * 4
    # 4 of 4096 x 4096, 3 of 11008 x 4096, and two norms.
    assert size_of(phase, "a block's weights") == 4 * (4 * 4096**2 + 3 * 11008 * 4096 + 2 * 4096)
    # All samples at once would take 2.9 GB: 128 MiB hold 1 of them.
    assert size_of(phase, "a block's activations") == 512 * 4 * (4 * 11008 + 3 * 4096)
    # down_proj: 11008 inputs, 4096 outputs.
    assert size_of(phase, "Hessian and solver") == 12 * 11008**2 + 16 * 4096 * 11008
    assert phase.peak_rss < 4.3e9 < 13 * 10**9 < plan.source.footprint


def test_a_second_stream_has_hidden_states_of_its_own_and_original_weights() -> None:
    off, on = (
        phase_of(
            qt.plan(config_of("7b"), qt.GPTQ(num_samples=32, seq_len=512, qep_alpha=alpha), machine="cpu-12gb"),
            "quantize",
        )
        for alpha in (0, 0.5)
    )
    name = "hidden states of the samples"
    assert size_of(on, name) - size_of(off, name) == 32 * 512 * 4096 * 4
    assert size_of(on, "a block's weights") == 2 * size_of(off, "a block's weights")
    # The products [in, in] of down_proj's inputs, and one more copy of its weight.
    name = "Hessian and solver"
    assert size_of(on, name) - size_of(off, name) == 4 * 11008**2 + 4 * 4096 * 11008
    assert min(on.seconds) > min(off.seconds)


def test_more_samples_take_more_memory() -> None:
    peaks = [
        phase_of(qt.plan(config_of("7b"), qt.GPTQ(num_samples=count), machine="cpu-12gb"), "quantize").peak_rss
        for count in (16, 64, 256)
    ]
    assert peaks == sorted(peaks)
    # Before and after a block, and in the full-precision model.
    assert peaks[2] - peaks[1] == 192 * 2048 * 4096 * 4 * 3


def test_a_model_that_writes_its_own_text_is_in_memory_whole() -> None:
    plan = qt.plan(config_of("7b"), qt.GPTQ(calibration="self"), machine="laptop-32gb")
    assert size_of(plan.phases[0], "the model in full precision") == 2 * (plan.source.footprint - 512)
    assert plan.phases[0].name == "calibrate"


@pytest.mark.parametrize("method", ["nf4", gptq()], ids=["nf4", "gptq"])
@pytest.mark.parametrize("architecture", ["gpt2", "mixtral", "gemma3_text"])
def test_every_architecture_is_planned(architecture: str, method: object) -> None:
    model = random_model(architecture)
    phases = [phase.name for phase in qt.plan(model, method, device="cpu").phases]
    assert phases[-1] == "save" and "quantize" in phases


def test_a_tokenizer_that_is_not_loaded_counts(tiny_llama: Path) -> None:
    plan = qt.plan(tiny_llama, "nf4", device="cpu")
    size = (tiny_llama / "tokenizer.json").stat().st_size
    assert size_of(phase_of(plan, "quantize"), "tokenizer") == round(8.2 * size)
    assert phase_of(plan, "load").peak_rss > 14 * size


@pytest.mark.parametrize("kind", ["mamba", "falcon", "deepseek_v3"])
def test_caches_of_other_kinds(kind: str) -> None:
    """Bytes of a token in 16 bits: none without attention; one head for all; keys of 192 and values of 128."""
    values: dict[str, object] = {"hidden_size": 256, "num_hidden_layers": 4, "vocab_size": 256, "dtype": "float16"}
    expected = 0
    if kind == "falcon":
        values |= {"num_attention_heads": 4, "multi_query": True, "new_decoder_architecture": False}
        expected = 2 * 4 * 64 * 2
    if kind == "deepseek_v3":
        values |= {"num_attention_heads": 4, "num_key_value_heads": 4, "intermediate_size": 512, "n_routed_experts": 8}
        values |= {"qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128, "n_group": 1, "topk_group": 1}
        expected = 4 * 4 * (128 + 64 + 128) * 2
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    plan = qt.plan(CONFIG_MAPPING[kind](**values), "absmax", machine="cpu-12gb", context=100)
    assert size_of(plan.inference, "keys and values") == 100 * expected


@pytest.mark.parametrize(("option", "value"), [("context", 0), ("batch_size", -1)])
def test_numbers_below_one_are_refused(option: str, value: int, tiny_llama: Path) -> None:
    with pytest.raises(ConfigError, match=f"{option} must be at least 1, got {value}"):
        qt.plan(tiny_llama, "nf4", **{option: value})


@pytest.mark.parametrize("kind", ["t5", "vit"])
def test_a_config_of_another_kind_of_model_is_refused(kind: str) -> None:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    with pytest.raises(UnsupportedModelError, match="no causal language model"):
        qt.plan(CONFIG_MAPPING[kind](), "nf4", machine="t4")


def test_a_model_in_float32_is_planned_for_a_gpu_that_is_not_here() -> None:
    config = config_of("7b")
    config.dtype = torch.float32
    plan = qt.plan(config, "nf4", machine="t4")
    assert plan.device.startswith("cuda")
    assert plan.settings["compute_dtype"] in ("float16", "bfloat16")


@pytest.mark.parametrize(("gigabytes", "stay"), [(16, True), (8, False)], ids=["room for them", "no room"])
def test_hidden_states_stay_on_a_gpu_that_has_room(gigabytes: int, stay: bool) -> None:
    """Llama-2 7B, 128 x 2,048 tokens by hand: 4.3 GB before and after a block, beside 0.4 + 0.5 + 1.4 GB."""
    machine = Machine("a card", 64 * 10**9, (gigabytes * 10**9,), cache_disk=10**12, output_disk=10**12)
    plan = qt.plan(config_of("7b"), qt.GPTQ(num_samples=128, seq_len=2048, qep_alpha=0), machine=machine, device="cuda")
    name = "hidden states of the samples"
    for phase in (phase_of(plan, "calibrate"), phase_of(plan, "quantize")):
        there = [term for term in (phase.vram if stay else phase.memory) if term.name == name]
        assert [term.size for term in there] == [2 * 128 * 2048 * 4096 * 2]
        assert not [term for term in (phase.memory if stay else phase.vram) if term.name == name]
        assert ("stay on the GPU, which has room" in there[0].source) == stay
    assert where_states_wait(plan) == ("cuda:0" if stay else "cpu")
    shared = qt.plan(config_of("7b"), qt.GPTQ(num_samples=128, qep_alpha=0, shards=4), machine=machine, device="cuda")
    assert where_states_wait(shared) == "cpu"
