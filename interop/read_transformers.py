"""Load compressed-tensors checkpoints of `write*.py` with plain transformers, and compare logits.

Runs in an environment of transformers 5 or 4, without qtoolkit.
"""

import json
import sys
from pathlib import Path

import torch
import transformers
from common import compare, written


def load(path: Path) -> torch.nn.Module:
    """Weights and products in float32."""
    return transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)


def is_compressed(path: Path) -> bool:
    """Whether the checkpoint needs no program beside transformers and the package compressed-tensors."""
    values = json.loads((path / "config.json").read_text()).get("quantization_config", {})
    return values.get("quant_method") == "compressed-tensors"


if __name__ == "__main__":
    sys.modules["qtoolkit"] = None  # type: ignore[assignment]
    age = "transformers4" if transformers.__version__.startswith("4.") else "transformers"
    paths = [path for folder in sys.argv[1:] for path in written(Path(folder)) if is_compressed(path)]
    sys.exit("\n".join(compare(f"transformers {transformers.__version__}", paths, load, contract=age)) or 0)
