"""Serve what `write_adapters.py` wrote with vLLM on a processor, an adapter for each request, and compare.

Its kernel for codes wants AVX512: elsewhere its own loader of adapters reads the files, which needs no kernel.
"""

import gc
import sys
from pathlib import Path

import torch
from read_vllm import log_probabilities
from safetensors.torch import load_file
from vllm import LLM
from vllm.distributed import cleanup_dist_env_and_memory
from vllm.lora.lora_model import LoRAModel
from vllm.lora.peft_helper import PEFTHelper
from vllm.lora.request import LoRARequest

ALIKE = 0.06
RANK = 8


def load_files(folder: Path) -> None:
    """Load the files of an adapter as vLLM does before it places them."""
    helper = PEFTHelper.from_local_dir(str(folder), max_position_embeddings=None)
    tensors = load_file(folder / "adapter_model.safetensors")
    loaded = LoRAModel.from_lora_tensors(1, tensors, helper, device="cpu", dtype=torch.bfloat16)
    assert {one.rank for one in loaded.loras.values()} == {RANK}
    print(f"{folder}: {len(loaded.loras)} layers loaded", flush=True)


def differing(folder: Path) -> int:
    """Serve a model with each of its adapters; returns how many differ."""
    # The engine before takes the groups of processes along when it goes, and must not go after this one is made.
    gc.collect()
    cleanup_dist_env_and_memory()
    expected = load_file(folder / "expected.safetensors")
    tokens = expected["tokens"][0].tolist()
    engine = LLM(
        str(folder / "model"),
        dtype="bfloat16",
        enforce_eager=True,
        skip_tokenizer_init=True,
        max_model_len=len(tokens) + 1,
        max_logprobs=-1,
        enable_lora=True,
        max_lora_rank=RANK,
    )
    bad = 0
    for number, adapter in enumerate(("repair", "trained"), start=1):
        request = LoRARequest(adapter, number, str(folder / adapter))
        found = log_probabilities(engine, tokens, request)[0]
        wanted = expected[adapter][0, :-1].log_softmax(-1)
        plain = expected["plain"][0, :-1].log_softmax(-1)
        far, moved = (float((one - wanted).norm() / wanted.norm()) for one in (found, plain))
        is_same = far < ALIKE and far < moved
        bad += not is_same
        told = f"{folder.name} {adapter}: {far:.4f} from ours, the adapter moves {moved:.3f}"
        print(told if is_same else f"{told}  DIFFERS", flush=True)
    return bad


def main(folder: Path, names: list[str]) -> int:
    """Load the files of each adapter, and serve each model with its own; returns how many differ."""
    for name in names:
        for adapter in ("repair", "trained"):
            load_files(folder / name / adapter)
    runs = "avx512f" in Path("/proc/cpuinfo").read_text()
    return sum(differing(folder / name) for name in names) if runs else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
