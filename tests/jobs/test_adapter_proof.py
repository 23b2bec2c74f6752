"""An adapter and its base proven together, defects that are found, and what is published."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import gguf
import pytest
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

import qtoolkit as qt
from qtoolkit.adapters.adapter_receipts import read_adapter_receipt
from qtoolkit.errors import ConfigError, VerificationError
from qtoolkit.jobs.verifying_adapters import base_beside
from qtoolkit.records import Repair, Verification
from tests.adapters.conftest import quantized_folder, repaired

__all__ = ["quantized_folder", "repaired"]
WEIGHTS = "adapter_model.safetensors"


@pytest.fixture(scope="module")
def proven(repaired: Repair, quantized_folder: Path) -> Verification:
    return qt.verify(repaired.path, base=quantized_folder)


def test_all_checks_pass(proven: Verification) -> None:
    assert proven.passed and not proven.unchecked
    seen = {check.name: check.value for check in proven.checks}
    assert {"file hashes", "base", "shapes", "figures", "loads in peft"} <= seen.keys()
    assert seen["matrices"] == "14 layers, rank 16"


def test_without_its_base_it_is_not_proven(repaired: Repair) -> None:
    found = qt.verify(repaired.path)
    assert found.passed and [check.name for check in found.unchecked] == ["base"]


def _change_weights(folder: Path) -> None:
    tensors = {name: 2 * tensor for name, tensor in load_file(folder / WEIGHTS).items()}
    save_file(tensors, folder / WEIGHTS)


def _pickle(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "adapter_model.bin")


def _name_a_folder(folder: Path) -> None:
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"base_model_name_or_path": "/home/ann/models/mine"}))


def _changes(**entries: object) -> Callable[[Path], None]:
    """Return what gives an adapter without a receipt other entries in its config."""

    def change(folder: Path) -> None:
        (folder / "qtoolkit_adapter.json").unlink()
        file = folder / "adapter_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | entries))

    return change


def _forget_the_hashes(folder: Path) -> None:
    file = folder / "qtoolkit_adapter.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"files": {}}))


def _add_a_file(folder: Path) -> None:
    (folder / "adapter.gguf").symlink_to(folder / "qtoolkit_adapter.json")


def _other_figures(folder: Path) -> None:
    file = folder / "qtoolkit_adapter.json"
    values = json.loads(file.read_text())
    values["probe"]["loss"] += 0.1
    file.write_text(json.dumps(values))


def _overflow(folder: Path) -> None:
    (folder / "qtoolkit_adapter.json").unlink()
    tensors = {name: tensor.float() * 1e18 for name, tensor in load_file(folder / WEIGHTS).items()}
    save_file(tensors, folder / WEIGHTS)


def _other_layers(folder: Path) -> None:
    _changes(target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"])(folder)
    tensors = {name.replace("layers.1", "layers.7"): tensor for name, tensor in load_file(folder / WEIGHTS).items()}
    save_file(tensors, folder / WEIGHTS)


def _other_shapes(folder: Path) -> None:
    (folder / "qtoolkit_adapter.json").unlink()
    tensors = {
        name: tensor[:, :32].contiguous() if "q_proj.lora_A" in name else tensor
        for name, tensor in load_file(folder / WEIGHTS).items()
    }
    save_file(tensors, folder / WEIGHTS)


DEFECTS: dict[str, tuple[Callable[[Path], None], str, str]] = {
    "other weights": (_change_weights, "file hashes", "adapter_model.safetensors is missing, or not the one"),
    "pickled": (_pickle, "no pickles", "adapter_model.bin is a pickle"),
    "hashes of no files": (_forget_the_hashes, "file hashes", "has none of adapter_model.safetensors"),
    "a file that is no GGUF": (_add_a_file, "adapter.gguf", "not as a GGUF file"),
    "a token": (_changes(note=f"hf_{'a' * 34}"), "nothing private", "holds what looks like a Hugging Face token"),
    "a folder in the config": (_changes(eva_config="/home/ann/x"), "nothing private", "config.json holds a local path"),
    "a relative folder as base": (
        _changes(base_model_name_or_path="models/ann/x"),
        "name of its base",
        "a folder of one machine",
    ),
    "a broken expression": (_changes(target_modules="(("), "loads in peft", "target_modules is no regular expression"),
    "other figures": (_other_figures, "figures", "when it was made"),
    "layers that peft leaves out": (_changes(target_modules=r".*q_proj"), "loads in peft", "computes other logits, by"),
    "logits that overflow": (_overflow, "figures", "logits hold NaN or infinity"),
    "a folder as base": (_name_a_folder, "name of its base", "a folder of one machine"),
    "layers that are not there": (_other_layers, "shapes", "the base has no layer model.layers.7."),
    "other shapes": (_other_shapes, "shapes", "q_proj is 64 x 64, and the adapter 64 x 32"),
}


@pytest.mark.parametrize("name", DEFECTS)
def test_defects_are_found(name: str, repaired: Repair, quantized_folder: Path, tmp_path: Path) -> None:
    damage, check, told = DEFECTS[name]
    folder = shutil.copytree(repaired.path, tmp_path / "adapter")
    damage(folder)
    found = {one.name: one.value for one in qt.verify(folder, base=quantized_folder).failed}
    assert told in found[check]


def test_a_receipt_leads_to_no_folder_above(repaired: Repair, tmp_path: Path) -> None:
    folder = shutil.copytree(repaired.path, tmp_path / "adapter")
    receipt = read_adapter_receipt(folder)
    assert receipt is not None and base_beside(folder, receipt) is None
    (tmp_path / "tiny-gptq").mkdir()
    assert base_beside(folder, receipt) == tmp_path / "tiny-gptq"
    for name in ("..", ".", "", "../adapter", str(folder)):
        assert base_beside(folder, replace(receipt, repair=replace(receipt.repair, model=name))) is None


def test_another_base_is_told_by_its_hashes(repaired: Repair, tiny_llama: Path, tmp_path: Path) -> None:
    other = tmp_path / "tiny-gptq"  # the name of the right one
    qt.quantize(tiny_llama, qt.AbsMax(bits=4, granularity="group", group_size=32), output=other, device="cpu")
    failed = qt.verify(repaired.path, base=other).failed
    assert [check.name for check in failed] == ["base"]
    assert failed[0].value == "its weight files are not those of tiny-gptq"


def test_publishing_names_the_published_base(
    repaired: Repair, quantized_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"base": quantized_folder, "license": "mit", "dry_run": True}
    result = qt.publish(repaired.path, "org/mine", base_model="org/tiny-gptq", **options)
    assert sorted(result.files) == ["README.md", "adapter_config.json", WEIGHTS, "qtoolkit_adapter.json"]
    head = result.card.split("---")[1]
    for line in (
        'base_model: "org/tiny-gptq"',
        'base_model_relation: "adapter"',
        'library_name: "peft"',
        'license: "mit"',
    ):
        assert line in head
    assert "KL divergence" in result.card and str(quantized_folder.parent) not in result.card
    with pytest.raises(ConfigError, match="publish the quantized model first"):
        qt.publish(repaired.path, "org/mine", **options)
    with pytest.raises(ConfigError, match="give base=, the quantized model"):
        qt.publish(repaired.path, "org/mine", base_model="org/tiny-gptq", dry_run=True, license="mit")


def test_what_fails_is_not_published(repaired: Repair, quantized_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(repaired.path, tmp_path / "adapter")
    _change_weights(folder)
    options = {"base": quantized_folder, "license": "mit", "dry_run": True, "base_model": "org/tiny-gptq"}
    with pytest.raises(VerificationError, match=r"is not published, for qt\.verify finds file hashes"):
        qt.publish(folder, "org/mine", **options)


def test_an_adapter_of_peft_becomes_a_file(repaired: Repair, tiny_llama: Path, tmp_path: Path) -> None:
    result = qt.convert(repaired.path, "gguf", tmp_path / "out", base=tiny_llama)
    (file,) = (tmp_path / "out").iterdir()
    held = gguf.GGUFReader(file)
    assert result.num_layers == 14 and len(held.tensors) == 28
    assert held.fields["adapter.lora.alpha"].contents() == 16
    with pytest.raises(ConfigError, match="names 'tiny-gptq' as its base, which is not here"):
        qt.convert(repaired.path, "gguf", tmp_path / "more")
    with pytest.raises(ConfigError, match="is an adapter, which format='mlx' does not hold"):
        qt.convert(repaired.path, "mlx", tmp_path / "more", base=tiny_llama)


def test_a_trained_adapter_is_known_by_the_weights_of_its_base(quantized_folder: Path, tmp_path: Path) -> None:
    config = LoraConfig(r=4, lora_alpha=12, init_lora_weights=False, task_type="CAUSAL_LM")
    model = get_peft_model(qt.load(quantized_folder, device="cpu").model, config)
    model.save_pretrained(tmp_path / "trained")
    found = qt.verify(tmp_path / "trained", base=quantized_folder)
    assert found.passed and [check.name for check in found.unchecked] == ["receipt", "figures"]
    (base,) = (check for check in found.checks if check.name == "base")
    assert base.value == "the weights in its receipt are those that it was trained on"
    other = shutil.copytree(tmp_path / "trained", tmp_path / "other")
    (other / "qtoolkit_trained_on.json").write_text('{"weights_fingerprint": "00000000000000"}')
    failed = qt.verify(other, base=quantized_folder).failed
    assert [check.value for check in failed] == ["the weights in its receipt are not those that it was trained on"]
    # What else lies in the folder, behind a link too, is not published.
    (tmp_path / "trained" / "qtoolkit_more.json").symlink_to(tmp_path / "secret.json")
    (tmp_path / "secret.json").write_text("{}")
    options = {"base": quantized_folder, "license": "mit", "dry_run": True, "base_model": "org/tiny-gptq"}
    result = qt.publish(tmp_path / "trained", "org/mine", **options)
    assert sorted(result.files) == ["README.md", "adapter_config.json", WEIGHTS, "qtoolkit_trained_on.json"]
