"""An adapter merged into codes: compared with the nearest level of each weight, found by trying all, and by bytes."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file

import qtoolkit as qt
from qtoolkit.adapters.adapter_reading import read_adapter
from qtoolkit.errors import ConfigError, UnsupportedModelError
from tests.adapters.conftest import RECIPE, quantized_folder

__all__ = ["quantized_folder"]
Q = "model.layers.0.self_attn.q_proj"
OTHER_TEXT = ["".join(f"Ship {n} came home after {n} days at sea, laden with salt. " for n in range(40))]


def adapter_of(folder: Path, where: Path, *, grouped: bool, alpha: float = 1) -> Path:
    """A folder with an adapter of any values."""
    torch.manual_seed(1)
    qa = {"use_qalora": True, "qalora_group_size": 32} if grouped else {}
    config = LoraConfig(r=4, lora_alpha=alpha, init_lora_weights=False, task_type="CAUSAL_LM", **qa)
    get_peft_model(qt.load(folder, device="cpu").model, config).save_pretrained(where)
    return where


def of_nobody(adapter: Path, folder: Path) -> Path:
    """A copy of an adapter that does not tell by hashes what it was trained on, for a model of the same base."""
    return Path(shutil.copytree(adapter, folder, ignore=shutil.ignore_patterns("qtoolkit_trained_on.json")))


def weights(model: Any) -> torch.Tensor:
    found: torch.Tensor = model.get_submodule(Q).dequantize()
    return found


@pytest.fixture(scope="module")
def minima_folder(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small Llama in MLX's format, with a float minimum for each group."""
    folder = tmp_path_factory.mktemp("merged") / "mlx"
    qt.quantize(tiny_llama, qt.GPTQ(**RECIPE, sym=False, format="mlx", lossy=True), output=folder, device="cpu")
    return folder


@pytest.fixture(scope="module")
def grouped(minima_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter of QA-LoRA."""
    return adapter_of(minima_folder, tmp_path_factory.mktemp("merged") / "grouped", grouped=True)


def test_minima_are_moved_and_no_code_is_touched(minima_folder: Path, grouped: Path, tmp_path: Path) -> None:
    merged = qt.merge(minima_folder, grouped, into_codes=True, output=tmp_path / "m", device="cpu")
    before, after = (load_file(folder / "model.safetensors") for folder in (minima_folder, tmp_path / "m"))
    moved = {key for key in before if not torch.equal(before[key], after[key])}
    changes = read_adapter(grouped).changes
    assert moved == {f"{name}.biases" for name in changes} and before.keys() == after.keys()
    for name, change in changes.items():
        wanted = before[f"{name}.biases"].float() + change.product()[:, ::32]
        assert torch.equal(after[f"{name}.biases"], wanted.to(after[f"{name}.biases"].dtype))
    (note,) = [note for note in merged.report.notes if "merged into" in note]
    assert "no code was touched; rounding loses 0.000" in note
    assert note in qt.load(tmp_path / "m", device="cpu").receipt.notes


@pytest.mark.parametrize("kind", ["lora", "qa-lora"])
def test_codes_are_the_nearest(kind: str, quantized_folder: Path, tmp_path: Path) -> None:
    adapter = adapter_of(quantized_folder, tmp_path / "adapter", grouped=kind == "qa-lora")
    q = qt.load(quantized_folder, device="cpu")
    old = weights(q.model)
    merged = qt.merge(q, adapter, into_codes=True, device="cpu")
    # The model of the session is as it was.
    assert torch.equal(weights(q.model), old)
    wanted = old + read_adapter(adapter).changes[Q].product()
    tensors = load_file(quantized_folder / "model.safetensors")
    # Symmetric codes: -8 to 7 times the scale of each group, [groups, out] -> [out, in, levels].
    scale = tensors[f"{Q}.scales"].float().T.repeat_interleave(32, dim=1)
    levels = torch.arange(-8, 8) * scale[..., None]
    nearest = levels.gather(2, (levels - wanted[..., None]).abs().argmin(2, keepdim=True))[..., 0]
    found = weights(merged.model)
    assert (found == nearest).float().mean() > 0.999 and not torch.equal(found, old)
    (note,) = [note for note in merged.report.notes if "merged into the codes" in note]
    lost = (found - wanted).square().sum() / read_adapter(adapter).changes[Q].product().square().sum()
    assert "codes were rounded anew in 4 layers; rounding loses 0." in note and lost > 0.02


def test_both_are_measured(quantized_folder: Path, tiny_llama: Path, tmp_path: Path) -> None:
    adapter = adapter_of(quantized_folder, tmp_path / "adapter", grouped=False)
    asked: Any = {"text": OTHER_TEXT, "seq_len": 32, "num_tokens": 256, "device": "cpu"}
    merged = qt.merge(quantized_folder, adapter, base=tiny_llama, config=qt.AbsMax(bits=8), **asked)
    (note,) = [note for note in merged.report.notes if note.startswith("measured")]
    apart, together = note.rpartition("full precision ")[2].split(" kept apart, ")
    # 8 bits beside 4.
    assert 0 < float(together.removesuffix(" merged")) < float(apart)
    into = qt.merge(quantized_folder, adapter, into_codes=True, **asked)
    (note,) = [note for note in into.report.notes if note.startswith("measured")]
    assert "KL divergence from model and adapter kept apart 0.0" in note


def test_a_file_with_minima(tiny_llama: Path, grouped: Path, tmp_path: Path) -> None:
    q = qt.quantize(tiny_llama, qt.GGUF(quant_type="Q4_1"), output=tmp_path / "file", device="cpu")
    given = of_nobody(grouped, tmp_path / "adapter")
    merged = qt.merge(tmp_path / "file", given, into_codes=True, output=tmp_path / "merged", device="cpu")
    (before,), (after,) = ([*folder.glob("*.gguf")] for folder in (tmp_path / "file", tmp_path / "merged"))
    old, new = (torch.frombuffer(bytearray(file.read_bytes()), dtype=torch.uint8) for file in (before, after))
    # At most the two bytes of a minimum of each block of 20.
    changes = read_adapter(grouped).changes
    blocks = sum(change.shape[0] * change.shape[1] // 32 for change in changes.values())
    assert len(old) == len(new) and blocks < int((old != new).sum()) <= 2 * blocks
    for name, change in changes.items():
        one, other = (model.get_submodule(name).weight.float() for model in (q.model, merged.model))
        # Rows of queries and keys stand in another order in the file; weights are expanded to bfloat16.
        assert (
            (other - one - change.product()).abs().max() < 2**-8 * one.abs().max() < 0.1 * change.product().abs().max()
        )
    assert "no code was touched" in merged.report.notes[-1]
    assert qt.verify(tmp_path / "merged").passed


def test_refusals(quantized_folder: Path, grouped: Path, tiny_llama: Path, tmp_path: Path) -> None:
    lora = of_nobody(adapter_of(quantized_folder, tmp_path / "own", grouped=False), tmp_path / "lora")
    grouped = of_nobody(grouped, tmp_path / "grouped")
    nf4 = qt.quantize(tiny_llama, "nf4", device="cpu")
    file = tmp_path / "file"
    qt.quantize(tiny_llama, qt.GGUF(quant_type="Q4_1"), output=file, device="cpu")
    cases: list[tuple[Any, Path, dict[str, Any], type[Exception], str]] = [
        (quantized_folder, lora, {"config": "nf4"}, ConfigError, "into_codes=True keeps the scales of the codes"),
        (nf4, lora, {}, UnsupportedModelError, "no layer of integer codes in groups"),
        (file, lora, {"output": tmp_path / "o"}, UnsupportedModelError, "changes single weights of blocks of 32"),
        (file, grouped, {}, ConfigError, "give output="),
        (quantized_folder, lora, {"text": "self"}, ConfigError, "'self' is written by a model"),
    ]
    for model, adapter, options, error, message in cases:
        with pytest.raises(error, match=message) as caught:
            qt.merge(model, adapter, into_codes=True, device="cpu", **options)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "o").exists()
