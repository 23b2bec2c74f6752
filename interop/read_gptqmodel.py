"""Load checkpoints of `write.py` with transformers + optimum + gptqmodel and compare logits; in their environment."""

import sys
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, GPTQConfig

# Activations in bfloat16 through two blocks.
TOLERANCE = 0.03


def main(folder: Path) -> None:
    """Compare all checkpoints."""
    failed = []
    for path in sorted(entry.parent for entry in folder.glob("*/expected.safetensors.test")):
        expected = load_file(path / "expected.safetensors.test")
        bits = int(path.name[0])
        # Its plain torch kernel, which needs no compiler.
        how = GPTQConfig(bits=bits, backend="torch")
        model = AutoModelForCausalLM.from_pretrained(
            path, device_map={"": "cpu"}, dtype=torch.float16, quantization_config=how
        )
        with torch.no_grad():
            logits = model(input_ids=expected["tokens"]).logits.float()
        error = ((logits - expected["logits"]).norm() / expected["logits"].norm()).item()
        print(f"{path.name:<40} relative error of the logits {error:.5f}", flush=True)
        if not error < TOLERANCE:
            failed.append(path.name)
    sys.exit(f"gptqmodel reads these differently: {', '.join(failed)}" if failed else 0)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
