"""Models built from streamed weights are those that transformers builds, and nothing in them is random."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub.utils import are_progress_bars_disabled
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, LlamaForCausalLM, PreTrainedModel
from transformers.utils import logging as transformers_logging

import qtoolkit as qt
from qtoolkit.errors import CheckpointError, InsufficientMemoryError, JobCancelled, UnsupportedModelError
from qtoolkit.formats.native.tensors import NativeTensors
from qtoolkit.models.checkpoint import Checkpoint
from qtoolkit.models.opening import open_checkpoint
from qtoolkit.records import ProgressEvent
from qtoolkit.stream.loading import compute_dtype_for, let_go_of_rests, load_streamed
from tests.models.gguf_models import write_gguf
from tests.sample_models import ARCHITECTURES, plain_logits, random_model

TOKENS = torch.arange(3, 35).reshape(2, 16)
WEIGHTS = "model.safetensors"


def ignore(_: ProgressEvent) -> None:
    pass


def open_model(model: Any) -> Checkpoint:
    return open_checkpoint(model, revision=None, token=None, tokenizer=None, on_progress=ignore)


def load(model: Any, on_progress: Callable[[ProgressEvent], None] = ignore) -> PreTrainedModel:
    return load_streamed(open_model(model), None, device="cpu", on_progress=on_progress).value


def test_a_part_of_a_tensor_whose_rest_nobody_needs_keeps_its_own_bytes_alone() -> None:
    fused, halves = torch.randn(3, 8), torch.randn(2, 8)
    model = torch.nn.ParameterDict({"v": fused[2], "gate": halves[0], "up": halves[1]})
    before = {name: parameter.detach().clone() for name, parameter in model.items()}
    let_go_of_rests(model)
    assert all(torch.equal(model[name], value) for name, value in before.items())
    assert model["v"].untyped_storage().nbytes() == 8 * 4
    # Both halves of the other are needed: they stay in it.
    assert model["gate"].untyped_storage().data_ptr() == halves.data_ptr()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    random_model("llama").save_pretrained(tmp_path / "llama")
    return tmp_path / "llama"


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS, {"format": "pt"})


@pytest.mark.parametrize("files", ["single", "sharded"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_plain_model_is_the_one_that_transformers_loads(tmp_path: Path, architecture: str, files: str) -> None:
    random_model(architecture).save_pretrained(tmp_path, max_shard_size="60kB" if files == "sharded" else "5GB")
    assert (len([*tmp_path.glob("*.safetensors")]) > 1) == (files == "sharded")
    expected, model = AutoModelForCausalLM.from_pretrained(tmp_path), load(tmp_path)
    assert type(model) is type(expected)
    assert model.training == expected.training
    wanted, state = expected.state_dict(), model.state_dict()
    assert state.keys() == wanted.keys()
    assert {name: tensor.dtype for name, tensor in state.items()} == {name: wanted[name].dtype for name in wanted}
    assert all(torch.equal(state[name], wanted[name]) for name in wanted)
    assert dict(model.named_buffers()).keys() == dict(expected.named_buffers()).keys()
    assert model.config.to_dict() == expected.config.to_dict()
    assert model.generation_config.to_dict() == expected.generation_config.to_dict()
    assert not any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers()))
    assert torch.equal(plain_logits(model, TOKENS), plain_logits(expected, TOKENS))


def test_tied_weights_are_one_tensor(tmp_path: Path) -> None:
    random_model("llama_tied").save_pretrained(tmp_path)
    model = load(tmp_path)
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight


def test_it_keeps_its_name_and_how_it_generates(folder: Path) -> None:
    values = {"do_sample": True, "temperature": 0.25, "eos_token_id": 9}
    (folder / "generation_config.json").write_text(json.dumps(values))
    model = load(folder)
    assert model.config.name_or_path == str(folder)
    assert (model.generation_config.temperature, model.generation_config.eos_token_id) == (0.25, 9)


MISSING = {
    "a norm": ("llama", "model.norm.weight"),
    "an untied head": ("llama", "lm_head.weight"),
    "a bias": ("qwen2", "model.layers.1.self_attn.q_proj.bias"),
    "a transposed layer": ("gpt2", "transformer.h.0.mlp.c_fc.weight"),
    "a router": ("mixtral", "model.layers.0.block_sparse_moe.gate.weight"),
}


@pytest.mark.parametrize(("architecture", "name"), MISSING.values(), ids=MISSING)
def test_missing_weights_are_an_error_before_any_is_read(tmp_path: Path, architecture: str, name: str) -> None:
    random_model(architecture).save_pretrained(tmp_path)
    change_weights(tmp_path, lambda tensors: tensors.pop(name))
    checkpoint = open_model(tmp_path)
    (tmp_path / WEIGHTS).unlink()
    leaf = ".".join(name.split(".")[-2:])
    with pytest.raises(CheckpointError, match=f"has no weights for .*{leaf}: save it anew, or copy it from where"):
        checkpoint.skeleton  # noqa: B018 it is built when it is asked for


def test_many_missing_weights_are_counted(folder: Path) -> None:
    change_weights(folder, lambda tensors: [tensors.pop(name) for name in [*tensors] if ".0.mlp." in name])
    with pytest.raises(CheckpointError, match=r"model\.layers\.0\.mlp\.down_proj\.weight and 2 more"):
        load(folder)


@pytest.mark.parametrize("change", ["missing", "shape"])
def test_experts_that_cannot_be_merged_are_an_error(tmp_path: Path, change: str) -> None:
    random_model("mixtral").save_pretrained(tmp_path)
    name = "model.layers.1.block_sparse_moe.experts.2.w1.weight"

    def damage(tensors: dict[str, torch.Tensor]) -> None:
        weight = tensors.pop(name)
        if change == "shape":
            tensors[name] = weight[:-1].clone()

    change_weights(tmp_path, damage)
    with pytest.raises(CheckpointError, match=r"layers\.1\.mlp\.experts\.gate_up_proj") as caught:
        load(tmp_path)
    assert len(str(caught.value).splitlines()) == 1
    assert "above report" not in str(caught.value)


def test_a_weight_of_another_shape_is_an_error(folder: Path) -> None:
    change_weights(folder, lambda tensors: tensors.update({"model.norm.weight": torch.ones(63)}))
    with pytest.raises(CheckpointError, match=r"has model.norm.weight as \[63\], but its config wants \[64\]"):
        load(folder)


@pytest.mark.parametrize("key", ["vocab_size", "intermediate_size"])
def test_a_config_that_wants_more_than_any_memory_is_an_error(folder: Path, key: str) -> None:
    values = json.loads((folder / "config.json").read_text()) | {key: 10**12}
    (folder / "config.json").write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match=f"has {key} 1000000000000, and no model has more than"):
        load(folder)


def test_weights_that_belong_to_nothing_are_noted(folder: Path) -> None:
    change_weights(folder, lambda tensors: tensors.update({"b.extra": torch.ones(1), "a.extra": torch.ones(1)}))
    result = qt.quantize(folder, "absmax", device="cpu")
    assert [note for note in result.report.notes if "extra" in note] == [
        "weights that belong to nothing in the model are left out: a.extra and 1 more"
    ]


def test_tensors_of_a_quantized_model_that_belong_to_nothing_are_noted(folder: Path, tmp_path: Path) -> None:
    qt.quantize(folder, "absmax", device="cpu", output=tmp_path / "quantized")
    change_weights(tmp_path / "quantized", lambda tensors: tensors.update({"extra": torch.ones(1)}))
    loaded = qt.load(tmp_path / "quantized", device="cpu")
    assert isinstance(loaded, qt.QuantizedModel)
    assert "weights that belong to nothing in the model are left out: extra" in loaded.report.notes


def test_weights_that_the_architecture_leaves_out_itself_are_not_noted(tmp_path: Path) -> None:
    """Old GPT-2 checkpoints hold causal masks."""
    random_model("gpt2").save_pretrained(tmp_path)
    mask = torch.ones(1, 1, 8, 8, dtype=torch.bool)
    change_weights(tmp_path, lambda tensors: tensors.update({"transformer.h.0.attn.bias": mask}))
    checkpoint = open_model(tmp_path)
    assert checkpoint.skeleton_notes == ()
    assert load_streamed(checkpoint, None, device="cpu", on_progress=ignore).notes == ()


def test_a_loaded_model_that_was_changed_is_refused() -> None:
    model = random_model("llama")
    model.model.layers[0].mlp.adapter = torch.nn.Linear(64, 64)
    with pytest.raises(UnsupportedModelError, match=r"mlp\.adapter.*merge its adapters, or undo the change"):
        load(model)


# GPTQ reads block by block: tests/methods/gptq/test_bad_input.py. A file is written: tests/jobs/test_file_results.py.
@pytest.mark.parametrize("method", sorted({*qt.available_methods()} - {"gptq", "gguf"}))
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")], ids=["NaN", "inf", "-inf"])
def test_a_weight_that_is_no_number_is_not_quantized(folder: Path, method: str, value: float) -> None:
    name = "model.layers.1.mlp.up_proj.weight"
    change_weights(folder, lambda tensors: tensors[name][5, 7].fill_(value))
    with pytest.raises(CheckpointError, match=f"{name} of .* holds NaN or infinity") as caught:
        qt.quantize(folder, method, device="cpu")
    assert len(str(caught.value).splitlines()) == 1


def test_a_weight_that_is_no_number_is_loaded_as_it_is(folder: Path) -> None:
    change_weights(folder, lambda tensors: tensors["model.norm.weight"][0].fill_(float("nan")))
    assert load(folder).model.norm.weight[0].isnan()


@pytest.mark.parametrize(
    ("raised", "expected", "message"),
    [
        (ValueError("two\nlines"), UnsupportedModelError, r"layers\.0\.mlp\.down_proj\.weight: lines"),
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
            InsufficientMemoryError,
            "Tried to allocate",
        ),
    ],
    ids=["an error", "out of memory"],
)
def test_what_fails_while_a_layer_is_quantized_is_told(
    folder: Path, monkeypatch: pytest.MonkeyPatch, raised: Exception, expected: type[Exception], message: str
) -> None:
    """transformers collects such errors, and raises one that names none of them."""

    def fail(self: NativeTensors, *parts: torch.Tensor | None) -> dict[str, torch.Tensor]:
        raise raised

    monkeypatch.setattr(NativeTensors, "store", fail)
    with pytest.raises(expected, match=message) as caught:
        qt.quantize(folder, qt.AbsMax(format="native"), device="cpu")
    assert len(str(caught.value).splitlines()) == 1


def settings_of(method: str | None) -> Any:
    return None if method is None else BitsAndBytesConfig(load_in_4bit=True)


@pytest.mark.parametrize("method", [None, "nf4"])
def test_a_file_that_is_cut_while_it_is_read_is_an_error(folder: Path, method: str | None) -> None:
    checkpoint = open_model(folder)
    checkpoint.skeleton  # noqa: B018 it is built when it is asked for
    with (folder / WEIGHTS).open("r+b") as file:
        file.truncate((folder / WEIGHTS).stat().st_size // 2)
    with pytest.raises(CheckpointError, match=r"ended within a tensor|was replaced or written while it was in use"):
        load_streamed(checkpoint, settings_of(method), device="cpu", on_progress=ignore)


def states(model: PreTrainedModel) -> dict[str, Any]:
    return {
        "state": {name: tensor.clone() for name, tensor in model.state_dict().items()},
        "addresses": {name: tensor.data_ptr() for name, tensor in model.state_dict().items()},
        "modules": {name: type(module) for name, module in model.named_modules()},
        "config": model.config.to_dict(),
        "generation": model.generation_config.to_dict(),
    }


@pytest.mark.parametrize("method", ["nf4", "int8", "absmax"])
def test_a_loaded_model_stays_as_it_is(method: str) -> None:
    model = random_model("llama")
    before = states(model)
    quantized = qt.quantize(model, method, device="cpu").model
    quantized.generation_config.max_length = 7
    after = states(model)
    assert all(torch.equal(before["state"][name], tensor) for name, tensor in after.pop("state").items())
    before.pop("state")
    assert after == before
    # What is not quantized is shared, so that it takes no memory again.
    assert quantized.lm_head.weight.data_ptr() == model.lm_head.weight.data_ptr()


def settings() -> tuple[Any, ...]:
    hook = transformers_logging.set_tqdm_hook(None)
    transformers_logging.set_tqdm_hook(hook)
    logger = transformers_logging.get_logger()
    return hook, logger.level, transformers_logging.is_progress_bar_enabled(), are_progress_bars_disabled()


@pytest.mark.parametrize("end", ["well", "cancelled"])
@pytest.mark.parametrize(
    "level", [transformers_logging.WARNING, transformers_logging.INFO, 0], ids=["warning", "info", "none"]
)
def test_transformers_is_quiet_and_its_settings_come_back(
    folder: Path, capfd: pytest.CaptureFixture[str], end: str, level: int
) -> None:
    def bar(factory: Callable[..., Any], args: Any, options: Any) -> Any:
        return factory(*args, **options)

    def stop(_: ProgressEvent) -> None:
        if end == "cancelled":
            raise JobCancelled

    logger = transformers_logging.get_logger()
    level_before, hook_before = logger.level, transformers_logging.set_tqdm_hook(bar)
    logger.setLevel(level)
    try:
        before = settings()
        assert before[:2] == (bar, level)
        change_weights(folder, lambda tensors: tensors.update({"extra": torch.ones(1)}))
        checkpoint = open_model(folder)
        capfd.readouterr()
        try:
            load_streamed(checkpoint, None, device="cpu", on_progress=stop)
        except JobCancelled:
            assert end == "cancelled"
        assert settings() == before
    finally:
        logger.setLevel(level_before)
        transformers_logging.set_tqdm_hook(hook_before)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("kind", ["folder", "tied folder", "loaded"])
def test_progress_ends_at_its_total_and_never_passes_it(folder: Path, tmp_path: Path, kind: str) -> None:
    random_model("llama_tied").save_pretrained(tmp_path / "tied")
    model = {"folder": folder, "tied folder": tmp_path / "tied", "loaded": random_model("llama_tied")}[kind]
    events: list[ProgressEvent] = []
    checkpoint = open_model(model)
    total = checkpoint.weight_bytes
    load_streamed(checkpoint, None, device="cpu", on_progress=events.append)
    assert {event.total for event in events} == {total}
    assert events[-1].done == total
    seen: list[ProgressEvent] = []
    qt.quantize(model, "absmax", device="cpu", on_progress=seen.append)
    assert max(event.done for event in seen) == seen[0].total == total
    assert len(seen) > 10


def test_the_bytes_of_a_gguf_file_are_counted_as_they_are_read(tmp_path: Path) -> None:
    """Its output head is tied: one tensor, and read once."""
    write_gguf(tmp_path / "a.gguf")
    checkpoint = open_model(tmp_path / "a.gguf")
    read: dict[str, int] = {}
    for tensor in checkpoint.hand_over(lambda name, tensor: read.update({name: tensor.nbytes})).values():
        tensor[...]
    assert sum(read.values()) == checkpoint.weight_bytes


def test_a_model_of_a_class_of_ones_own_keeps_it() -> None:
    class OwnLlama(LlamaForCausalLM):
        pass

    assert type(load(OwnLlama(random_model("llama").config))) is OwnLlama


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_a_cpu_computes_in_the_stored_type(dtype: torch.dtype) -> None:
    assert compute_dtype_for("cpu", dtype) == dtype


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
def test_a_gpu_without_bfloat16_computes_in_float16() -> None:
    has_it = torch.cuda.get_device_capability() >= (8, 0)
    assert compute_dtype_for("cuda:0", torch.bfloat16) == (torch.bfloat16 if has_it else torch.float16)
    assert compute_dtype_for("cuda:0", torch.float32) == torch.float32
