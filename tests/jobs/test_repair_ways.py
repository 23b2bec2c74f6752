"""Ways of a repair: stopped and called again, ranks by bytes, 8 bits, experts, and a file of another program."""

import json
from pathlib import Path

import gguf
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

import qtoolkit as qt
from qtoolkit.errors import ConfigError, OutputError
from qtoolkit.records import ProgressEvent, Repair
from tests.adapters.conftest import SMALL, quantized_folder, repaired
from tests.sample_models import few_tokens, random_model

__all__ = ["quantized_folder", "repaired"]
IDS = torch.arange(5, 69).reshape(2, 32)  # [samples, tokens]


def test_goes_on_with_the_blocks_that_were_done(
    repaired: Repair, quantized_folder: Path, tiny_llama: Path, tmp_path: Path
) -> None:
    def stop(event: ProgressEvent) -> None:
        if event.phase == "quantize" and event.done == 8:  # in the second block
            raise qt.JobCancelled

    def repair(**options: object) -> Repair:
        return qt.repair(quantized_folder, tiny_llama, tmp_path / "adapter", **{**SMALL, "rank": 16, **options})

    with pytest.raises(qt.JobCancelled):
        repair(on_progress=stop)
    assert not (tmp_path / "adapter").exists()
    with pytest.raises(OutputError, match=r"begun with rank 16, and this call has 8: call as before"):
        repair(rank=8)
    result = repair()
    assert result.resumed == 1 and not list(tmp_path.glob("*.partial"))
    files = [Path(one.path) / "adapter_model.safetensors" for one in (repaired, result)]
    whole, resumed = (load_file(file) for file in files)
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_bytes_go_to_the_layers_that_give_back_most(
    repaired: Repair, quantized_folder: Path, tiny_llama: Path, tmp_path: Path
) -> None:
    asked = {**SMALL, "target_size": "40 kB", "in_8_bits": True}
    result = qt.repair(quantized_folder, tiny_llama, tmp_path / "adapter", **asked)
    assert 30_000 < result.adapter_bytes <= 40_000
    assert result.least_rank is not None and result.least_rank < result.rank
    assert result.regained > 0.5
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    stored = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert {one.dtype for one in stored.values()} == {torch.float8_e4m3fn}
    ranks = {
        name.split(".lora_")[0].removeprefix("base_model.model."): len(one)
        for name, one in stored.items()
        if "lora_A" in name
    }
    assert {**dict.fromkeys(config["target_modules"], config["r"]), **config["rank_pattern"]} == ranks
    q = qt.load(quantized_folder, device="cpu")
    with torch.no_grad():
        plain = q.model(input_ids=IDS).logits
        base = qt.load(tiny_llama, device="cpu")(input_ids=IDS).logits
        found = PeftModel.from_pretrained(q.model, tmp_path / "adapter")(input_ids=IDS).logits
    assert (found - base).norm() < 0.8 * (plain - base).norm()
    with pytest.raises(ConfigError, match="rank=4 and target_size=4600 both say how large the adapter is: give one"):
        qt.repair(quantized_folder, tiny_llama, tmp_path / "both", **{**SMALL, "target_size": 4600, "rank": 4})
    with pytest.raises(ConfigError, match=r"target_size=4\.6 kB has no room for an adapter: give at least"):
        qt.repair(quantized_folder, tiny_llama, tmp_path / "small", **{**SMALL, "target_size": 4600})


def test_experts_get_adapters_too(smollm2: Path, tmp_path: Path) -> None:
    base = tmp_path / "mixtral"
    random_model("mixtral", vocab_size=few_tokens(smollm2, base)).save_pretrained(base)
    q = qt.quantize(base, qt.AbsMax(bits=4, granularity="group", group_size=32), device="cpu")
    result = qt.repair(q, base, tmp_path / "adapter", rank=8, **SMALL)
    assert result.num_layers == 2 * (4 + 4 * 3) and not result.left
    assert result.regained > 0.2


def test_a_file_gets_an_adapter_of_its_program(tiny_llama: Path, tmp_path: Path) -> None:
    qt.quantize(tiny_llama, qt.GGUF("Q4_0"), output=tmp_path / "file", device="cpu")
    (file,) = (tmp_path / "file").glob("*.gguf")
    result = qt.repair(file, tiny_llama, tmp_path / "adapter", rank=8, **SMALL)
    assert 0.1 < result.regained < 1 and result.weight_bits == pytest.approx(4.5)
    stored = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    held = {one.name: one for one in gguf.GGUFReader(tmp_path / "adapter" / "adapter.gguf").tensors}
    assert len(stored) == len(held) == 28
    down = stored["base_model.model.model.layers.1.mlp.down_proj.lora_B.weight"]
    found = held["blk.1.ffn_down.weight.lora_b"]
    assert torch.equal(torch.from_numpy(found.data.copy()).float(), down.float())
