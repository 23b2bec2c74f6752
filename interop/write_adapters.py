"""Write small quantized models with two adapters each, one that repairs and one that peft trained on our layers.

Run `python interop/write_adapters.py FOLDER SMOLLM2`, whose tokenizer is taken. `read_adapters.py` loads them with
transformers and peft, `read_vllm_adapters.py` with vLLM, both without qtoolkit.
"""

import sys
from pathlib import Path

import torch
from common import TOKENS, logits_of, random_llama
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import LlamaForCausalLM

import qtoolkit as qt
from tests.sample_models import few_tokens

TEXT = ["".join(f"Tower {n} is {2 * n} years older than the town, and nobody knows who built it. " for n in range(90))]
OTHER = ["".join(f"Rain fell on harbour {n} while {n + 3} clerks counted ropes and ships. " for n in range(90))]
MORE = ["".join(f"Recipe {n} asks for {n + 2} eggs, butter and {3 * n} minutes beside an oven. " for n in range(90))]
GPTQ = {"bits": 4, "group_size": 32, "calibration": TEXT, "num_samples": 4, "seq_len": 64, "refine": 0}
MADE = {
    "gptq": qt.GPTQ(**GPTQ),
    "compressed-tensors": qt.GPTQ(**GPTQ, format="compressed-tensors"),
    "nf4": qt.NF4(),
}
RANK = 8


def train(folder: Path, output: Path) -> None:
    """Save what peft trained on a quantized model: a few steps on one sentence, which are enough to move logits."""
    model = get_peft_model(qt.load(folder, device="cpu").model, LoraConfig(r=RANK, task_type="CAUSAL_LM"))
    optimizer = torch.optim.AdamW([one for one in model.parameters() if one.requires_grad], lr=0.02)
    for _ in range(4):
        model(input_ids=TOKENS, labels=TOKENS).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(output)


def main(folder: Path, smollm2: Path) -> None:
    """Write all."""
    base = folder / "base"
    count = few_tokens(smollm2, base)
    config = random_llama().config
    config.vocab_size = count
    torch.manual_seed(0)
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(base)
    for name, method in MADE.items():
        model = folder / name / "model"
        qt.quantize(base, method, output=model, device="cpu")
        qt.repair(
            model,
            base,
            folder / name / "repair",
            rank=RANK,
            calibration=MORE,
            num_samples=8,
            seq_len=64,
            text=OTHER,
            num_tokens=256,
            device="cpu",
        )
        train(model, folder / name / "trained")
        expected = {"tokens": TOKENS, "plain": logits_of(qt.load(model, device="cpu").model)}
        for adapter in ("repair", "trained"):
            stored = load_file(folder / name / adapter / "adapter_model.safetensors")
            expected[adapter] = logits_of(
                _with(qt.load(model, device="cpu").model, stored, repairs=adapter == "repair")
            )
        save_file(expected, folder / name / "expected.safetensors")
        print(name, flush=True)


def _with(model: torch.nn.Module, stored: dict[str, torch.Tensor], *, repairs: bool) -> torch.nn.Module:
    """Add what an adapter changes, as a plain product in float32; peft's own scaling is 8 by the rank here."""
    pairs = {name.split(".lora_A")[0]: name for name in stored if "lora_A" in name}
    scaling = 1.0 if repairs else 8 / RANK
    for layer, name in pairs.items():
        a, b = stored[name].float(), scaling * stored[name.replace("lora_A", "lora_B")].float()

        def hook(
            _: object, args: tuple[torch.Tensor], output: torch.Tensor, a: torch.Tensor = a, b: torch.Tensor = b
        ) -> torch.Tensor:
            return (output.float() + args[0].float() @ a.T @ b.T).to(output.dtype)

        model.get_submodule(layer.removeprefix("base_model.model.")).register_forward_hook(hook)
    return model


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
