"""A merge is the quantization of the sum: compared with peft's own merge in full precision, quantized whole."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import qtoolkit as qt
from qtoolkit.errors import (
    CheckpointError,
    ConfigError,
    ModelNotFoundError,
    OutputExistsError,
    QToolkitError,
    UnsafeCheckpointError,
    UnsupportedModelError,
)
from tests.adapters.conftest import RECIPE, quantized_folder
from tests.fake_hub.server import Hub
from tests.sample_models import few_tokens, random_model

__all__ = ["quantized_folder"]
WEIGHTS = "adapter_model.safetensors"


def make_adapter(model: Any, folder: Path, **options: Any) -> Path:
    """An adapter with any values, as a training leaves it."""
    torch.manual_seed(1)
    config = LoraConfig(**{"r": 4, "lora_alpha": 12, "init_lora_weights": False, "task_type": "CAUSAL_LM", **options})
    get_peft_model(model, config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def adapter(quantized_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_adapter(qt.load(quantized_folder, device="cpu").model, tmp_path_factory.mktemp("trained") / "adapter")


def merged_by_peft(base: Path, adapter: Path, folder: Path) -> Path:
    """The base in full precision with the adapter merged into it by peft."""
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter).merge_and_unload()
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(base).save_pretrained(folder)
    return folder


def codes_of(folder: Path) -> dict[str, torch.Tensor]:
    return {key: value for file in folder.glob("*.safetensors") for key, value in load_file(file).items()}


def alike(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> float:
    """The share of equal numbers among all stored tensors."""
    assert found.keys() == expected.keys()
    pairs = [(found[key], expected[key]) for key in expected]
    return sum(int((one == other).sum()) for one, other in pairs) / sum(one.numel() for one, _ in pairs)


@pytest.mark.parametrize("use_rslora", [False, True], ids=["lora", "rslora"])
def test_codes_are_those_of_the_merged_model(use_rslora: bool, tiny_llama: Path, tmp_path: Path) -> None:
    config = qt.AbsMax(bits=8)
    small = qt.quantize(tiny_llama, config, output=tmp_path / "small", device="cpu")
    before = small.model.model.layers[0].self_attn.q_proj.dequantize()
    adapter = make_adapter(small.model, tmp_path / "adapter", use_rslora=use_rslora)
    merged = qt.merge(tmp_path / "small", adapter, base=tiny_llama, output=tmp_path / "merged", device="cpu")
    whole = merged_by_peft(tiny_llama, adapter, tmp_path / "whole")
    expected = qt.quantize(whole, config, output=tmp_path / "expected", device="cpu")
    # The sum is rounded once here, and peft rounds the change to bfloat16 before it is added.
    assert alike(codes_of(tmp_path / "merged"), codes_of(tmp_path / "expected")) > 0.95
    found, wanted = (q.model.model.layers[0].self_attn.q_proj.dequantize() for q in (merged, expected))
    assert (found - wanted).norm() < 0.01 * (before - wanted).norm()


def test_the_recipe_and_the_note_are_told(
    quantized_folder: Path, adapter: Path, tiny_llama: Path, tmp_path: Path
) -> None:
    config = qt.GPTQ(**RECIPE)
    merged = qt.merge(quantized_folder, adapter, base=tiny_llama, config=config, output=tmp_path / "m", device="cpu")
    assert merged.report.settings["bits"] == 4 and merged.report.source.name == str(tiny_llama)
    assert merged.receipt is not None
    for notes in (merged.report.notes, merged.receipt.notes, qt.load(tmp_path / "m", device="cpu").receipt.notes):
        (note,) = [note for note in notes if "adapter" in note]
        assert note.startswith("the adapter adapter (sha256 ") and "rank 4, 4 layers" in note
        # The card has it: no folder of this machine.
        assert "to the weights of tiny-llama before" in note


def test_transposed_layers(smollm2: Path, tmp_path: Path) -> None:
    base = tmp_path / "gpt2"
    random_model("gpt2", vocab_size=few_tokens(smollm2, base)).save_pretrained(base)
    q = qt.quantize(base, qt.AbsMax(bits=8), device="cpu")
    full = AutoModelForCausalLM.from_pretrained(base)
    adapter = make_adapter(full, tmp_path / "adapter", fan_in_fan_out=True)
    merged = qt.merge(q, adapter, base=base, device="cpu")
    whole = AutoModelForCausalLM.from_pretrained(merged_by_peft(base, adapter, tmp_path / "whole"))
    weight = whole.transformer.h[0].attn.c_attn.weight.float().T
    found = merged.model.transformer.h[0].attn.c_attn.dequantize()
    assert (found - weight).norm() < 0.02 * weight.norm()


def test_a_file_as_base(adapter: Path, quantized_folder: Path, tiny_llama: Path, tmp_path: Path) -> None:
    qt.quantize(tiny_llama, qt.GGUF(quant_type="Q8_0"), output=tmp_path / "file", device="cpu")
    (file,) = (tmp_path / "file").glob("*.gguf")
    base = shutil.copy(file, tmp_path / "tiny-llama.gguf")
    config = qt.AbsMax(bits=8)
    found, wanted = (
        qt.merge(quantized_folder, adapter, base=one, config=config, device="cpu") for one in (base, tiny_llama)
    )
    for name in ("q_proj", "v_proj"):
        one, other = (q.model.get_submodule(f"model.layers.0.self_attn.{name}").dequantize() for q in (found, wanted))
        assert (one - other).norm() < 0.02 * other.norm()


def test_the_line_of_a_magic_keeps_the_model(adapter: Path, tiny_llama: Path) -> None:
    from IPython.core.interactiveshell import InteractiveShell

    shell = InteractiveShell.instance()
    shell.run_line_magic("load_ext", "qtoolkit")
    q = qt.quantize(tiny_llama, qt.AbsMax(bits=8), device="cpu")
    shell.push({"q": q})
    report = shell.run_line_magic("qmerge", f"q {adapter} --base {tiny_llama} --into merged --device cpu")
    assert any("the adapter adapter" in note for note in report.notes)
    assert isinstance(shell.user_ns["merged"], qt.QuantizedModel)
    InteractiveShell.clear_instance()


def changed(adapter: Path, folder: Path, **entries: Any) -> Path:
    """A copy of an adapter with other entries in its config."""
    shutil.copytree(adapter, folder)
    values = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(values | entries))
    return folder


def with_tensors(adapter: Path, folder: Path, change: Any) -> Path:
    """A copy of an adapter with other matrices."""
    shutil.copytree(adapter, folder)
    tensors = load_file(folder / WEIGHTS)
    save_file({key: value.contiguous() for key, value in change(tensors).items()}, folder / WEIGHTS)
    return folder


def pickled(adapter: Path, folder: Path) -> Path:
    shutil.copytree(adapter, folder)
    (folder / WEIGHTS).rename(folder / "adapter_model.bin")
    return folder


def of_other_weights(adapter: Path, folder: Path) -> Path:
    """A copy of an adapter that was trained on another quantized model of the same name."""
    shutil.copytree(adapter, folder)
    (folder / "qtoolkit_trained_on.json").write_text('{"weights_fingerprint": "00000000000000"}')
    return folder


Q = "base_model.model.model.layers.0.self_attn.q_proj"
BAD: dict[str, tuple[Any, type[QToolkitError], str]] = {
    "no adapter": (lambda source, folder: source.parent, ModelNotFoundError, "holds no adapter"),
    "pickled": (pickled, UnsafeCheckpointError, "pickled adapter"),
    "another base": (
        lambda source, folder: changed(source, folder, base_model_name_or_path="org/other"),
        ConfigError,
        "is one of org/other, and .* was made from tiny-llama",
    ),
    "other weights": (
        of_other_weights,
        ConfigError,
        r"was trained on other weights \(000000000000\) than those of .*: give the model that it was trained on",
    ),
    "no LoRA": (lambda source, folder: changed(source, folder, peft_type="IA3"), UnsupportedModelError, "type 'IA3'"),
    "DoRA": (lambda source, folder: changed(source, folder, use_dora=True), UnsupportedModelError, "use_dora=True"),
    "other shapes": (
        lambda source, folder: with_tensors(
            source, folder, lambda one: one | {f"{Q}.lora_B.weight": torch.zeros(32, 4)}
        ),
        ConfigError,
        "is 32 x 64 in adapter bad and 64 x 64 in the model",
    ),
    "missing modules": (
        lambda source, folder: with_tensors(
            changed(source, folder.with_name("named"), target_modules=["query", "v_proj"]),
            folder,
            lambda one: {key.replace("q_proj", "query"): value for key, value in one.items()},
        ),
        ConfigError,
        "no linear layer of .*: give an adapter of this model",
    ),
    "half a pair": (
        lambda source, folder: with_tensors(
            source, folder, lambda one: {key: value for key, value in one.items() if key != f"{Q}.lora_A.weight"}
        ),
        UnsupportedModelError,
        "without a pair of matrices",
    ),
    "a rank larger than a layer": (
        lambda source, folder: with_tensors(
            changed(source, folder.with_name("named"), rank_pattern={Q.removeprefix("base_model.model."): 80}),
            folder,
            lambda one: one | {f"{Q}.lora_A.weight": torch.ones(80, 64), f"{Q}.lora_B.weight": torch.ones(64, 80)},
        ),
        ConfigError,
        "has the rank 80 for .*, which is 64 x 64",
    ),
    "NaN": (
        lambda source, folder: with_tensors(
            source, folder, lambda one: one | {f"{Q}.lora_A.weight": torch.full((4, 64), torch.nan)}
        ),
        CheckpointError,
        "holds NaN or infinity",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_adapters(name: str, quantized_folder: Path, adapter: Path, tiny_llama: Path, tmp_path: Path) -> None:
    make, error, message = BAD[name]
    bad = make(adapter, tmp_path / "bad")
    output = tmp_path / "out" / "merged"
    with pytest.raises(error, match=message) as caught:
        qt.merge(quantized_folder, bad, base=tiny_llama, config=qt.AbsMax(bits=8), output=output, device="cpu")
    assert "\n" not in str(caught.value)
    assert not output.exists()


def test_the_base_is_that_of_the_receipt_at_its_commit(hub: Hub, tiny_llama: Path, tmp_path: Path) -> None:
    repository = hub.add("org/tiny", {file.name: file.read_bytes() for file in tiny_llama.iterdir()})
    commit = repository.refs["main"]
    q = qt.quantize("org/tiny", qt.AbsMax(bits=8), output=tmp_path / "small", device="cpu")
    adapter = tmp_path / "adapter"
    config = LoraConfig(r=4, init_lora_weights=False, task_type="CAUSAL_LM")
    # peft would ask the real Hub whether the vocabulary has grown.
    get_peft_model(q.model, config).save_pretrained(adapter, save_embedding_layers=False)
    repository.commit({"README.md": b"later"})
    merged = qt.merge(tmp_path / "small", adapter, device="cpu")
    assert merged.report.source.name == "org/tiny" and merged.report.source.commit_hash == commit
    assert repository.refs["main"] != commit
    other = changed(adapter, tmp_path / "other", revision="f" * 40)
    with pytest.raises(ConfigError, match=f"is one of org/tiny at f{{40}}, and the base is at {commit}"):
        qt.merge(tmp_path / "small", other, device="cpu")


@pytest.mark.parametrize("into_codes", [False, True], ids=["into the base", "into codes"])
def test_neither_model_nor_adapter_is_replaced(
    into_codes: bool, quantized_folder: Path, adapter: Path, tiny_llama: Path, tmp_path: Path
) -> None:
    base = {} if into_codes else {"base": tiny_llama, "config": qt.AbsMax(bits=8)}
    for output in (quantized_folder, adapter, adapter / "inside"):
        with pytest.raises(OutputExistsError, match=r"the source .*, which is never written to"):
            qt.merge(quantized_folder, adapter, into_codes=into_codes, output=output, overwrite=True, **base)
    with pytest.raises(OutputExistsError, match="which is never written to"):
        qt.convert(adapter, "gguf", adapter, base=tiny_llama, overwrite=True)
    assert (adapter / WEIGHTS).is_file()


def test_what_is_not_at_hand(quantized_folder: Path, adapter: Path, tiny_llama: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"the base of .* is not at hand .*'tiny-llama' alone.*: give base="):
        qt.merge(quantized_folder, adapter, config=qt.AbsMax(bits=8), device="cpu")
    # The calibration text was a list, which a receipt does not keep.
    with pytest.raises(ConfigError, match=r"the recipe of .* cannot be used again .*: give config="):
        qt.merge(quantized_folder, adapter, base=tiny_llama, device="cpu")
    with pytest.raises(ConfigError, match=r"has no receipt that tells how it was quantized: give config="):
        qt.merge(tiny_llama, adapter, base=tiny_llama, device="cpu")
