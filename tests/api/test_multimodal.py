"""Models that take images: their text is quantized, the rest stays, and the result opens as they do."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors import safe_open
from transformers.models.auto import modeling_auto
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

import qtoolkit as qt
from qtoolkit.publishing.receipt_file import read_receipt
from qtoolkit.stream.products import multiply_fast
from tests.fake_hub.fixture import WRITE_TOKEN, writable_hub
from tests.fake_hub.writable import WritableHub
from tests.publishing.checks import checks_of
from tests.publishing.conftest import run_here

__all__ = ["run_here", "writable_hub"]

_TEXT = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
_TEXT |= {"num_key_value_heads": 2, "head_dim": 16, "vocab_size": 256, "max_position_embeddings": 128}
_TEXT |= {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
_ROPE = {"rope_type": "default", "rope_theta": 1e4}
# As deep as the model of the text.
_VIT = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
_QWEN = {
    "depth": 2,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_heads": 4,
    "patch_size": 4,
    "out_hidden_size": 64,
}
_LINEAR = {"layer_types": ["linear_attention", "full_attention"], "linear_num_key_heads": 2}
# A projection has a row for each head of values, of which plain bitsandbytes takes 32 on a CPU.
_LINEAR |= {"linear_num_value_heads": 32, "linear_key_head_dim": 16, "linear_value_head_dim": 4}
_TOKENS = {"vision_start_token_id": 248, "vision_end_token_id": 249, "image_token_id": 250, "video_token_id": 251}
CONFIGS: dict[str, dict[str, Any]] = {
    "gemma3": {
        "text_config": _TEXT,
        "vision_config": _VIT | {"image_size": 32, "patch_size": 8},
        "mm_tokens_per_image": 4,
        "image_token_index": 250,
    },
    "qwen2_5_vl": {
        "text_config": _TEXT | {"rope_parameters": _ROPE | {"mrope_section": [2, 3, 3]}},
        "vision_config": _QWEN | {"fullatt_block_indexes": [1], "window_size": 16},
    }
    | _TOKENS,
    "qwen3_5": {
        "text_config": _TEXT
        | _LINEAR
        | {"rope_parameters": _ROPE | {"mrope_section": [1, 1, 0], "partial_rotary_factor": 0.25}},
        "vision_config": _QWEN | {"num_position_embeddings": 16},
    }
    | _TOKENS,
}
PARTS = {"gemma3": ("model.vision_tower", "model.multi_modal_projector")}
TEXT = torch.tensor([[5, 7, 11, 13, 17, 19, 23, 29]])  # [1, tokens]
CALIBRATION = [list(range(3, 240))] * 4
RECIPES = {
    "gemma3": qt.AbsMax(bits=8),
    "qwen2_5_vl": qt.GPTQ(bits=8, group_size=32, num_samples=4, seq_len=32, calibration=CALIBRATION),
    "qwen3_5": qt.NF4(),
}


def save(kind: str, folder: Path) -> Any:
    """A small random model of a kind in a folder, with a processor's files as the Hub has them."""
    names = modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
    torch.manual_seed(0)
    model = getattr(transformers, names[kind])(CONFIG_MAPPING[kind](**CONFIGS[kind])).to(torch.bfloat16).eval()
    model.save_pretrained(folder)
    for name in ("preprocessor_config.json", "processor_config.json", "chat_template.json"):
        (folder / name).write_text(json.dumps({"of": name}))
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n# small\n")
    # Not the model itself, whose buffers were made in another type.
    model = type(model).from_pretrained(folder, dtype=torch.bfloat16).eval()
    multiply_fast(model)
    return model


@pytest.fixture(scope="module", params=CONFIGS)
def job(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Any, Any, Path, Path]:
    """The kind, the model, its quantized result, and the folders of both."""
    kind = request.param
    source, output = tmp_path_factory.mktemp(kind) / "source", tmp_path_factory.mktemp(kind) / "result"
    model = save(kind, source)
    return kind, model, qt.quantize(source, RECIPES[kind], device="cpu", output=output), source, output


def picture(kind: str) -> dict[str, torch.Tensor]:
    """A picture of noise and a text around it, as the processor of a kind prepares them."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.tensor([[5, 248, 250, 250, 250, 250, 249, 7]])  # [1, tokens]
    if kind == "gemma3":
        pixels = torch.randn(1, 3, 32, 32, generator=generator)  # [images, channels, rows, columns]
        return {"input_ids": ids, "pixel_values": pixels.bfloat16(), "token_type_ids": (ids == 250).long()}
    patches = torch.randn(16, 3 * 2 * 4 * 4, generator=generator)  # [patches, channels * frames * rows * columns]
    grid = torch.tensor([[1, 4, 4]])  # [images, (frames, rows, columns)]
    return {
        "input_ids": ids,
        "pixel_values": patches.bfloat16(),
        "image_grid_thw": grid,
        "mm_token_type_ids": (ids == 250).long(),
    }


def features(model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """What the tower and the projector make of a picture."""
    options = {name: inputs[name] for name in ("pixel_values", "image_grid_thw") if name in inputs}
    outputs = model.get_image_features(**options)
    found = getattr(outputs, "pooler_output", outputs)
    return torch.cat(list(found)) if isinstance(found, list | tuple) else found


def test_the_result_opens_with_the_class_of_its_source(job: Any) -> None:
    _, model, result, _, output = job
    assert type(result.model) is type(model)
    assert json.loads((output / "config.json").read_text())["architectures"] == [type(model).__name__]
    loaded = qt.load(output, device="cpu")
    assert type(loaded.model) is type(model)  # type: ignore[union-attr]
    auto = transformers.AutoModelForImageTextToText.from_pretrained(output)
    assert type(auto) is type(model)
    with torch.no_grad():
        theirs, ours = (one(TEXT).logits.float() for one in (auto, loaded.model))  # type: ignore[union-attr]
        assert (theirs - ours).norm() < 0.02 * ours.norm()


def test_a_picture_is_seen_as_by_the_source_and_answered_within_the_method_s_error(job: Any) -> None:
    kind, model, _, _, output = job
    loaded: Any = qt.load(output, device="cpu").model  # type: ignore[union-attr]
    inputs = picture(kind)
    with torch.no_grad():
        assert torch.equal(features(loaded, inputs), features(model, inputs))
        for given in (inputs, {"input_ids": TEXT}):
            full, quantized = (one(**given).logits.float() for one in (model, loaded))
            assert (quantized - full).norm() < 0.25 * full.norm()
            assert not torch.equal(quantized, full)


def test_every_tensor_outside_the_language_model_is_as_it_was(job: Any) -> None:
    kind, _, result, source, output = job
    parts = PARTS.get(kind, ("model.visual",))
    told = {layer.skipped for layer in result.report.skipped if " no part of the language model" in layer.skipped}
    assert told == {f"part of {part}, which is no part of the language model" for part in parts}
    assert not any(layer.name.startswith(parts) for layer in result.report.layers)
    with (
        safe_open(source / "model.safetensors", "pt") as before,
        safe_open(output / "model.safetensors", "pt") as after,
    ):
        own = [name for name in before.keys() if "visual" in name or "vision" in name or "projector" in name]  # noqa: SIM118
        assert own
        for name in own:
            assert torch.equal(before.get_tensor(name), after.get_tensor(name)), name


def test_the_footprint_is_as_planned_and_the_processor_goes_along(job: Any) -> None:
    kind, _, result, source, output = job
    plan = qt.plan(source, RECIPES[kind], device="cpu")
    assert plan.footprint_after == result.memory.footprint_after
    for name in ("preprocessor_config.json", "processor_config.json", "chat_template.json"):
        assert (output / name).read_bytes() == (source / name).read_bytes()


@pytest.mark.usefixtures("run_here")
def test_it_is_published_whole_and_opens_as_the_hub_holds_it(
    job: Any, writable_hub: WritableHub, tmp_path: Path
) -> None:
    kind, model, result, _, output = job
    qt.publish(output, f"me/{kind}", token=WRITE_TOKEN)
    published = writable_hub.repositories[f"me/{kind}"]
    files = published.commits[published.refs["main"]]
    own = {file.name: file.read_bytes() for file in output.iterdir()}
    assert own.items() <= files.items()
    card = files["README.md"].decode()
    assert "pipeline_tag: image-text-to-text" in card and "AutoProcessor.from_pretrained" in card
    assert "no part of the language model" in card
    pulled = tmp_path / "pulled"
    pulled.mkdir()
    for name, content in files.items():
        (pulled / name).write_bytes(content)
    loaded: Any = qt.load(pulled, device="cpu")
    assert type(loaded.model) is type(model)
    with torch.no_grad():
        assert torch.equal(features(loaded.model, picture(kind)), features(model, picture(kind)))
        assert torch.equal(loaded.model(TEXT).logits, result.model(TEXT).logits)


def test_its_base_is_known_again(job: Any) -> None:
    _, _, _, source, output = job
    checks = checks_of(output, base=source, running=False)
    assert checks["base model"].passed, checks["base model"]
    config = json.loads((source / "config.json").read_text())
    config["text_config"]["num_attention_heads"] = 8
    changed = source.parent / "changed" / source.name
    changed.mkdir(parents=True, exist_ok=True)
    (changed / "config.json").write_text(json.dumps(config))
    found = checks_of(output, base=changed, running=False)["base model"]
    assert found.passed is False
    assert found.value == "text_config.num_attention_heads is 4 instead of the base's 8"


@pytest.mark.parametrize("method", ["absmax", "nf4"])
def test_a_tower_that_is_included_is_quantized_too(method: str, tmp_path: Path) -> None:
    model = save("gemma3", tmp_path / "source")
    config = {"absmax": qt.AbsMax, "nf4": qt.NF4}[method](include=("*vision_tower*",))
    result = qt.quantize(tmp_path / "source", config, device="cpu", output=tmp_path / "result")
    assert result.memory.footprint_after == result.memory.predicted_footprint_after
    names = {layer.name for layer in result.report.layers}
    tower = {
        name
        for name, module in model.named_modules()
        if type(module) is torch.nn.Linear and name.startswith("model.vision_tower.")
    }
    assert tower
    assert tower < names
    assert not any("projector" in name for name in names)
    # Codes in the tower are read by what checks the folder, and a card tells how they came there.
    checks = checks_of(tmp_path / "result", base=tmp_path / "source", running=method == "nf4")
    assert [name for name, check in checks.items() if check.passed is False] == []
    receipt = read_receipt(tmp_path / "result")
    assert receipt is not None and receipt.settings["include"] == ["*vision_tower*"]
    assert not any("vision_tower" in reason for reason in receipt.skipped)
    loaded: Any = qt.load(tmp_path / "result", device="cpu")
    pixels = picture("gemma3")["pixel_values"]
    with torch.no_grad():
        # A projector that was never trained makes zeros of them.
        full, seen, again = (
            one.model.vision_tower(pixels).last_hidden_state.float() for one in (model, result.model, loaded.model)
        )
    assert torch.equal(again, seen)
    assert 0 < (seen - full).norm() < 0.5 * full.norm()
