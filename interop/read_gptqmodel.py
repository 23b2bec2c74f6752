"""Load checkpoints of `write*.py` with transformers + optimum + gptqmodel and compare logits; in their environment."""

import json
import sys
from pathlib import Path
from typing import Any

import gptqmodel
import torch
import transformers
from common import compare, written
from gptqmodel import BACKEND, GPTQModel
from transformers import AutoModelForCausalLM, AwqConfig, GPTQConfig

# Its own loader reads as its kernels do in transformers; it is asked where transformers refuses, and about these.
ITS_OWN = ("3bit-sym-static-gptq", "4bit-asym-static-gptq", "4bit-one-group")
ITS_OWN += ("gptq", "gptq-96inputs", "gptq-said-9bit", "awq")
# By formats: those that need no compiler.
KERNELS = {"gptq": "torch", "awq": "torch_awq"}


def load(path: Path) -> torch.nn.Module:
    """On the CPU, with its plain torch kernel, which needs no compiler; through transformers."""
    values = values_of(path)
    kind = AwqConfig if values["quant_method"] == "awq" else GPTQConfig
    how = kind(bits=values["bits"], backend=KERNELS[values["quant_method"]])
    return AutoModelForCausalLM.from_pretrained(
        path, device_map={"": "cpu"}, dtype=torch.float16, quantization_config=how
    )


def load_alone(path: Path) -> torch.nn.Module:
    """The same by gptqmodel's own loader."""
    kernel = BACKEND(KERNELS[values_of(path)["quant_method"]])
    return GPTQModel.load(str(path), device="cpu", backend=kernel, dtype=torch.float16).model


def values_of(path: Path) -> dict[str, Any]:
    """The `quantization_config` of a checkpoint; empty for one in full precision."""
    values: dict[str, Any] = json.loads((path / "config.json").read_text()).get("quantization_config", {})
    return values


if __name__ == "__main__":
    is_old = transformers.__version__.startswith("4.")
    # The older transformers asks for AutoAWQ.
    kinds = ("gptq",) if is_old else ("gptq", "awq")
    every = [path for folder in sys.argv[1:] for path in written(Path(folder))]
    paths = [path for path in every if values_of(path).get("quant_method") in kinds]
    titles = f"transformers {transformers.__version__} + optimum + gptqmodel {gptqmodel.__version__}"
    # Activations in float16 through all blocks.
    wrong = compare(titles, paths, load, contract="transformers4" if is_old else "transformers")
    if not is_old:
        alone = [path for path in paths if path.name in ITS_OWN or "mixed" in path.name]
        wrong += compare(f"gptqmodel {gptqmodel.__version__}", alone, load_alone, contract="gptqmodel")
    sys.exit("\n".join(wrong) or 0)
