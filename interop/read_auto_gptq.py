"""Load checkpoints of `write.py` with auto-gptq 0.7.1 and compare logits; in its environment."""

import sys
from pathlib import Path

import torch
from auto_gptq import AutoGPTQForCausalLM
from safetensors.torch import load_file

# Its layers multiply with weights in float16 and add in float16: 0.1 % each.
TOLERANCE = 0.01


def main(folder: Path) -> None:
    """Compare all checkpoints of the first format."""
    failed = []
    # It has no words for layers of a block that are left as they are.
    skipped = ("gptq_v2", "some-left")
    for path in sorted(entry.parent for entry in folder.glob("*/expected.safetensors.test")):
        if path.name.endswith(skipped):
            continue
        expected = load_file(path / "expected.safetensors.test")
        model = AutoGPTQForCausalLM.from_quantized(
            str(path), device="cpu", use_safetensors=True, torch_dtype=torch.float32, use_triton=False
        )
        with torch.no_grad():
            logits = model(input_ids=expected["tokens"]).logits.float()
        error = ((logits - expected["logits"]).norm() / expected["logits"].norm()).item()
        print(f"{path.name:<40} relative error of the logits {error:.5f}", flush=True)
        if not error < TOLERANCE:
            failed.append(path.name)
    sys.exit(f"auto-gptq reads these differently: {', '.join(failed)}" if failed else 0)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
