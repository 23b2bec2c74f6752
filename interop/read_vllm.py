"""Load checkpoints of `write*.py` with vLLM on a processor and compare log probabilities; in its environment.

Its kernel for codes wants AVX512, and takes 4 bits alone: elsewhere it is told how far vLLM came.
"""

import gc
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

# The engine in this process, and little memory for keys and values.
os.environ |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_LOGGING_LEVEL": "ERROR"}

import torch
from common import EXPECTED, claims_of, compare, written
from layers import LARGEST
from safetensors.torch import load_file
from vllm import LLM, SamplingParams
from vllm.distributed import cleanup_dist_env_and_memory

# What it says where its config class took the checkpoint, and no kernel for a processor, or for this one, is there.
LACKS = "Failed to find a kernel that can implement|Marlin does not support weight_bits = uint8b128|cpu_gemm_wna16"
LACKS += "|No [A-Za-z0-9]+ MoE backend supports|Unsupported CPU attention configuration|Marlin FP4 not available"


def dtype_of(path: Path) -> str:
    """The type to compute in: as the model files are, but where inputs are rounded.

    There another type moves inputs to other levels: with one model in float8 logits are 0.071 of their deviation off in
    bfloat16, and 0.022 in float32, in which each layer but the first is what the rehearsal of `layers.py` computes.
    """
    kind = claims_of(path)["stored"]["input_type"]
    # Its kernel for int8 with AMX takes no float32, and its kernels for floats of 4 bits neither.
    if kind == "float4" or (kind == "int8" and torch.cpu._is_amx_tile_supported()):  # noqa: SLF001 as vLLM asks
        return "bfloat16"
    # As the scales of the published format, which has no kernel for float16.
    return "float32" if kind in LARGEST else "bfloat16" if claims_of(path)["stored"]["format"] == "fp8" else "float16"


class Engine:
    """What `compare` asks of a model: called with token ids it gives log probabilities of each token but the first."""

    def __init__(self, path: Path) -> None:
        # Of the checkpoint before.
        gc.collect()
        cleanup_dist_env_and_memory()
        self.engine = LLM(
            str(path),
            dtype=dtype_of(path),
            enforce_eager=True,
            skip_tokenizer_init=True,
            # Some of the models have room for hardly more.
            max_model_len=load_file(path / EXPECTED)["tokens"].shape[1] + 1,
            max_logprobs=-1,
        )

    def __call__(self, input_ids: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(logits=log_probabilities(self.engine, input_ids[0].tolist()))

    def named_modules(self) -> list[tuple[str, torch.nn.Module]]:
        """Its layers by their names, some of them fused."""
        (modules,) = self.engine.apply_model(lambda model: list(model.named_modules()))
        return modules


def log_probabilities(engine: LLM, tokens: list[int], adapter: Any = None) -> torch.Tensor:
    """Of every token at every place but the first, (1, tokens - 1, vocabulary); with an adapter's `LoRARequest`."""
    wanted = SamplingParams(max_tokens=1, temperature=0, prompt_logprobs=-1, detokenize=False)
    (answer,) = engine.generate({"prompt_token_ids": tokens}, wanted, use_tqdm=False, lora_request=adapter)
    rows = [[row[token].logprob for token in range(len(row))] for row in answer.prompt_logprobs[1:]]
    return torch.tensor(rows)[None]


if __name__ == "__main__":
    paths = [path for folder in sys.argv[1:] for path in written(Path(folder))]
    sys.exit("\n".join(compare("vLLM on a processor", paths, Engine, contract="vllm", lacks=LACKS)) or 0)
