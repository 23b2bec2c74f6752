"""Load checkpoints of `write*.py` that need no other program with plain transformers, and compare logits.

Runs in an environment of transformers 5 or 4, without qtoolkit.
"""

import json
import sys
from pathlib import Path

import torch
import transformers
from common import claims_of, compare, written

# Formats for which it asks for gptqmodel (`read_gptqmodel.py`) or AutoRound.
OTHERS = ("gptq", "awq", "auto-round")
# transformers 4 on FP8 in blocks.
LACKS = "A GPU or XPU is needed"


def load(path: Path) -> torch.nn.Module:
    """Products in float32; in bfloat16 where weights are expanded to that whatever is asked for, or stay float8."""
    stored = claims_of(path)["stored"]
    expands = stored["input_type"] == "float4" or stored["format"] == "fp8"
    return transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16 if expands else torch.float32)


def is_read_alone(path: Path) -> bool:
    """Whether the checkpoint needs no program beside transformers, compressed-tensors and bitsandbytes."""
    values = json.loads((path / "config.json").read_text()).get("quantization_config", {})
    return values.get("quant_method") not in OTHERS


def is_tied_or_plain(path: Path) -> bool:
    """Whether quantized embeddings, if the checkpoint has them, are the head too."""
    return "embeddings" not in path.name or path.name.endswith("tied")


if __name__ == "__main__":
    sys.modules["qtoolkit"] = None  # type: ignore[assignment]
    age = "transformers4" if transformers.__version__.startswith("4.") else "transformers"
    paths = [path for folder in sys.argv[1:] for path in written(Path(folder)) if is_read_alone(path)]
    # transformers 4 reads quantized embeddings beside a head of its own; the contract does not tell these apart.
    paths = [path for path in paths if age == "transformers" or is_tied_or_plain(path)]
    sys.exit(
        "\n".join(compare(f"transformers {transformers.__version__}", paths, load, contract=age, lacks=LACKS)) or 0
    )
