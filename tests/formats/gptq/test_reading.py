"""GPTQ checkpoints of others, read by `qt.load` and by plain transformers, computed and written again."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, GPTQConfig, PreTrainedModel
from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING, AUTO_QUANTIZER_MAPPING

import qtoolkit as qt
from qtoolkit.errors import UnsupportedModelError
from qtoolkit.formats.gptq import loader
from qtoolkit.kernels import QuantizedLinear
from qtoolkit.measure.footprint import memory_footprint
from tests.formats.gptq.files import Recipe, Tensors, write, write_checkpoint

TOKENS = torch.arange(2, 34).reshape(2, 16)
RECIPES = [
    Recipe(),
    Recipe(bits=2, sym=False),
    Recipe(bits=3, desc_act=True),
    Recipe(bits=8, group_size=-1),
    Recipe(sym=False, checkpoint_format="gptq_v2"),
    Recipe("llama_tied", scale_dtype=torch.bfloat16),
    Recipe("qwen2", bits=3, sym=False),
    Recipe("gemma3_text", bits=8, desc_act=True),
    Recipe("gpt2"),
    Recipe("mixtral"),
    Recipe("mixtral", bits=3, desc_act=True),
    Recipe("qwen3_moe", group_size=64),
]


@pytest.fixture(scope="module", params=RECIPES, ids=str)
def recipe(request: pytest.FixtureRequest) -> Recipe:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def made(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Tensors]:
    folder = tmp_path_factory.mktemp("checkpoint")
    return folder, write_checkpoint(recipe, folder)


@pytest.fixture
def llama(tmp_path: Path) -> tuple[Path, Tensors]:
    tensors = write_checkpoint(Recipe(), tmp_path)
    return tmp_path, tensors


def plain(folder: Path, **options: Any) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **options)  # type: ignore[no-any-return]


def logits(model: PreTrainedModel) -> torch.Tensor:
    with torch.no_grad():
        result: torch.Tensor = model(TOKENS).logits
    return result


def loaded(folder: Path, dtype: str = "float32") -> qt.QuantizedModel:
    result = qt.load(folder, device="cpu", dtype=dtype)
    assert isinstance(result, qt.QuantizedModel)
    return result


def test_logits_are_those_of_the_weights_that_it_stands_for(made: tuple[Path, Tensors]) -> None:
    folder, _ = made
    expected = logits(plain(folder / "dense"))
    for model in (loaded(folder / "gptq").model, plain(folder / "gptq")):
        torch.testing.assert_close(logits(model), expected, rtol=1e-4, atol=1e-5)


def test_every_quantized_layer_is_ours_and_nothing_else(made: tuple[Path, Tensors]) -> None:
    folder, tensors = made
    count = sum(name.endswith(".qweight") for name in tensors)
    for model in (loaded(folder / "gptq").model, plain(folder / "gptq")):
        assert sum(isinstance(module, QuantizedLinear) for module in model.modules()) == count


def test_the_config_is_what_the_file_says(made: tuple[Path, Tensors], recipe: Recipe) -> None:
    config = loaded(made[0] / "gptq").config
    assert config == qt.GPTQ(
        bits=recipe.bits,
        group_size=recipe.group_size,
        sym=recipe.sym,
        desc_act=recipe.desc_act,
        checkpoint_format=recipe.checkpoint_format,
        damp_percent=0.1,
        true_sequential=False,
        order="activation" if recipe.desc_act else "natural",
        **qt.GPTQ.absent(),
    )


def test_sizes_are_as_planned(made: tuple[Path, Tensors], recipe: Recipe) -> None:
    if recipe.scale_dtype != torch.float16:
        pytest.skip("plans know of scales in float16 alone")
    memory = loaded(made[0] / "gptq", "float16").memory
    assert memory.footprint_after == memory.predicted_footprint_after
    assert memory.disk_after is not None
    assert memory.predicted_disk_after is not None
    # The headers of safetensors are not in the prediction: about 150 bytes a tensor.
    assert 0 <= memory.disk_after - memory.predicted_disk_after <= 200 * len(made[1]) + 100


@pytest.mark.parametrize("how", ["ours", "transformers"])
def test_written_again_it_is_the_same_checkpoint(made: tuple[Path, Tensors], how: str, tmp_path: Path) -> None:
    folder, tensors = made
    if how == "ours":
        result = loaded(folder / "gptq", "float16")
        logits(result.model)
        result.save(tmp_path / "again")
    else:
        model = AutoModelForCausalLM.from_pretrained(folder / "gptq", dtype=torch.float16)
        logits(model)
        model.save_pretrained(tmp_path / "again")
    again = load_file(tmp_path / "again" / "model.safetensors")
    assert again.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert again[name].dtype == tensor.dtype
        assert torch.equal(again[name], tensor)
    config = json.loads((folder / "gptq" / "config.json").read_text())["quantization_config"]
    written = json.loads((tmp_path / "again" / "config.json").read_text())["quantization_config"]
    assert written == config
    if how == "ours":
        assert json.loads((tmp_path / "again" / "quantize_config.json").read_text()) == config


def test_it_writes_text_with_the_kernel_and_back(llama: tuple[Path, Tensors]) -> None:
    result = loaded(llama[0] / "gptq", "bfloat16")
    written = result.model.generate(TOKENS[:1], max_new_tokens=4, do_sample=False)
    assert written.shape == (1, 20)


def test_an_early_checkpoint(llama: tuple[Path, Tensors], tmp_path: Path) -> None:
    """No word in config.json, another name of the file, and no g_idx: as AutoGPTQ wrote them in 2023."""
    folder, tensors = llama[0] / "gptq", {k: v for k, v in llama[1].items() if not k.endswith(".g_idx")}
    write(folder, tensors, None)
    (folder / "model.safetensors").rename(folder / "gptq_model-4bit-32g.safetensors")
    said = {"bits": 4, "group_size": 32, "damp_percent": 0.01, "desc_act": False, "sym": True}
    (folder / "quantize_config.json").write_text(json.dumps(said))
    result = loaded(folder, "float16")
    assert result.config == qt.GPTQ(group_size=32, damp_percent=0.01, order="natural", **qt.GPTQ.absent())
    expected = logits(plain(llama[0] / "dense"))
    torch.testing.assert_close(logits(loaded(folder).model), expected, rtol=1e-4, atol=1e-5)
    result.save(tmp_path / "again")
    assert load_file(tmp_path / "again" / "model.safetensors").keys() == tensors.keys()
    written = json.loads((tmp_path / "again" / "quantize_config.json").read_text())
    assert written == {"quant_method": "gptq", **said}
    with pytest.raises(UnsupportedModelError, match="is quantized already"):
        qt.plan(folder, qt.AbsMax())


def test_layers_may_differ(tmp_path: Path) -> None:
    """As gptqmodel's `dynamic` has them: other bits, other groups, layers in full precision, the head too."""
    four, eight = write_checkpoint(Recipe(), tmp_path / "4"), write_checkpoint(Recipe(bits=8), tmp_path / "8")
    wide = write_checkpoint(Recipe(group_size=64), tmp_path / "64")
    dense = load_file(tmp_path / "4" / "dense" / "model.safetensors")
    mixed, expected = dict(four), dict(dense)
    for other, part, source in ((eight, "layers.0.mlp.", "8"), (wide, "layers.1.self_attn.", "64")):
        mixed.update({name: tensor for name, tensor in other.items() if part in name})
        theirs = load_file(tmp_path / source / "dense" / "model.safetensors")
        expected.update({name: tensor for name, tensor in theirs.items() if part in name})
    full = "model.layers.1.mlp.up_proj"
    mixed = {name: tensor for name, tensor in mixed.items() if not name.startswith(full)}
    mixed[f"{full}.weight"] = expected[f"{full}.weight"] = dense[f"{full}.weight"].half().float()
    folder = tmp_path / "4" / "gptq"
    write(
        folder, {**mixed, f"{full}.weight": mixed[f"{full}.weight"].half()}, {**Recipe().config, "dynamic": {"+:x": {}}}
    )
    save_file(expected, tmp_path / "4" / "dense" / "model.safetensors", {"format": "pt"})
    result = loaded(folder)
    torch.testing.assert_close(logits(result.model), logits(plain(tmp_path / "4" / "dense")), rtol=1e-4, atol=1e-5)
    assert full in {layer.name for layer in result.skipped}
    assert result.memory.footprint_after == result.memory.predicted_footprint_after


@pytest.mark.parametrize("architecture", ["mixtral", "qwen3_moe"])
def test_an_expert_in_full_precision_beside_others(architecture: str, tmp_path: Path) -> None:
    tensors = write_checkpoint(Recipe(architecture), tmp_path)
    dense = load_file(tmp_path / "dense" / "model.safetensors")
    ends = (".0.block_sparse_moe.experts.1.w2.qweight", ".0.mlp.experts.1.down_proj.qweight")
    name = next(name for name in tensors if name.endswith(ends)).removesuffix(".qweight")
    tensors = {key: tensor for key, tensor in tensors.items() if not key.startswith(name)}
    tensors[f"{name}.weight"] = dense[f"{name}.weight"].half()
    write(tmp_path / "gptq", tensors, Recipe(architecture).config)
    expected = logits(plain(tmp_path / "dense"))
    result = loaded(tmp_path / "gptq")
    for model in (result.model, plain(tmp_path / "gptq")):
        torch.testing.assert_close(logits(model), expected, rtol=1e-3, atol=1e-4)
    loaded(tmp_path / "gptq", "float16").save(tmp_path / "again")
    again = load_file(tmp_path / "again" / "model.safetensors")
    assert again.keys() == tensors.keys()
    assert torch.equal(again[f"{name}.weight"], tensors[f"{name}.weight"])


def test_a_bias_that_the_model_does_not_have(llama: tuple[Path, Tensors], tmp_path: Path) -> None:
    """optimum gives every layer one, of zeros."""
    name = "model.layers.0.self_attn.q_proj"
    tensors = llama[1] | {f"{name}.bias": torch.arange(64).half()}
    write(llama[0] / "gptq", tensors, Recipe().config)
    result = loaded(llama[0] / "gptq", "float16")
    assert torch.equal(result.model.get_submodule(name).bias, torch.arange(64).half())
    assert result.memory.footprint_after == result.memory.predicted_footprint_after
    result.save(tmp_path / "again")
    assert load_file(tmp_path / "again" / "model.safetensors").keys() == tensors.keys()


def test_shards(llama: tuple[Path, Tensors]) -> None:
    folder, names = llama[0] / "gptq", sorted(llama[1])
    expected = logits(plain(folder))
    parts = {"model-1.safetensors": names[::2], "model-2.safetensors": names[1::2]}
    (folder / "model.safetensors").unlink()
    for file, part in parts.items():
        save_file({name: llama[1][name] for name in part}, folder / file, {"format": "pt"})
    weight_map = {name: file for file, part in parts.items() for name in part}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    assert torch.equal(logits(plain(folder)), expected)
    assert torch.equal(logits(loaded(folder).model), expected)


def test_a_config_given_to_transformers(llama: tuple[Path, Tensors]) -> None:
    """People pass transformers' own; the file's counts, and transformers says so."""
    expected = logits(plain(llama[0] / "gptq"))
    with pytest.warns(UserWarning, match="from the model will be used"):
        model = plain(llama[0] / "gptq", quantization_config=GPTQConfig(bits=4, backend="torch"))
    assert torch.equal(logits(model), expected)


def test_transformers_says_where_gptq_is_made(llama: tuple[Path, Tensors]) -> None:
    with pytest.raises(UnsupportedModelError, match=r"use qtoolkit\.quantize"):
        plain(llama[0] / "dense", quantization_config=GPTQConfig(bits=4, dataset="wikitext2"))


@pytest.fixture
def registry() -> Iterator[None]:
    """transformers' registry as it is now, afterwards."""
    kept = dict(AUTO_QUANTIZER_MAPPING), dict(AUTO_QUANTIZATION_CONFIG_MAPPING)
    yield
    AUTO_QUANTIZER_MAPPING.update(kept[0])
    AUTO_QUANTIZATION_CONFIG_MAPPING.update(kept[1])


@pytest.mark.usefixtures("registry")
@pytest.mark.parametrize(
    ("installed", "expected"),
    [((), True), (("optimum",), True), (("gptqmodel",), True), (("optimum", "gptqmodel"), False)],
    ids=lambda value: "+".join(value) or "neither" if isinstance(value, tuple) else None,
)
def test_who_has_both_packages_keeps_what_transformers_does(
    installed: tuple[str, ...], expected: bool, llama: tuple[Path, Tensors], monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = object()
    AUTO_QUANTIZER_MAPPING["gptq"] = theirs
    monkeypatch.setattr(loader, "is_installed", lambda name: name in installed)
    loader.register()
    assert (AUTO_QUANTIZER_MAPPING["gptq"] is not theirs) == expected
    # Our own loader asks nobody.
    assert memory_footprint(loaded(llama[0] / "gptq").model)
    assert (AUTO_QUANTIZER_MAPPING["gptq"] is not theirs) == expected


def test_a_renamed_model_keeps_its_recipe(llama: tuple[Path, Tensors]) -> None:
    """The loaded config carries every key on, and belongs to nobody else."""
    model = loaded(llama[0] / "gptq").model
    assert model.config.quantization_config.to_dict() == Recipe().config
    assert model.config.quantization_config.bits == 4
    model.config.quantization_config.to_dict()["meta"].clear()
    assert model.config.quantization_config.to_dict() == replace(Recipe()).config


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize(("stored", "said"), [("gptq", "gptq_v2"), ("gptq_v2", "gptq")], ids=["1 as 2", "2 as 1"])
def test_a_format_that_the_config_names_wrongly_is_told_by_the_zero_points(
    stored: str, said: str, bits: int, tmp_path: Path
) -> None:
    write_checkpoint(Recipe(bits=bits, checkpoint_format=stored), tmp_path)
    right = loaded(tmp_path / "gptq")
    set_format(tmp_path / "gptq", said)
    read = loaded(tmp_path / "gptq")
    assert torch.equal(logits(read.model), logits(right.model))
    assert any(f"read as {stored}: its config says {said}" in note for note in read.report.notes)
    assert not any("its config says" in note for note in right.report.notes)
    # What is written again names the format that it has.
    again = loaded(read.save(tmp_path / "again"))
    assert not any("its config says" in note for note in again.report.notes)
    assert torch.equal(logits(again.model), logits(right.model))


def test_a_format_is_not_doubted_without_symmetry(tmp_path: Path) -> None:
    write_checkpoint(Recipe(sym=False), tmp_path)
    set_format(tmp_path / "gptq", "gptq_v2")
    assert not any("its config says" in note for note in loaded(tmp_path / "gptq").report.notes)


def set_format(folder: Path, name: str) -> None:
    file = folder / "config.json"
    config = json.loads(file.read_text())
    config["quantization_config"]["checkpoint_format"] = name
    file.write_text(json.dumps(config))
