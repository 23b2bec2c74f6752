"""Load checkpoints of `write_*.py` with qtoolkit and compare its logits with those of their writers."""

import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

import qtoolkit as qt

# The writers multiply in float16 through two blocks.
TOLERANCE = 0.03


def main(folder: Path) -> None:
    """Compare all checkpoints."""
    failed = []
    for expected in sorted(folder.glob("*/expected.safetensors.test")):
        path, wanted = expected.parent, load_file(expected)
        with torch.no_grad():
            logits = qt.load(path, device="cpu", dtype="float32").model(wanted["tokens"]).logits
        error = ((logits - wanted["logits"]).norm() / wanted["logits"].norm()).item()
        print(f"{path.name:<40} relative error of the logits {error:.5f}", flush=True)
        if not error < TOLERANCE:
            failed.append(path.name)
    sys.exit(f"qtoolkit reads these differently: {', '.join(failed)}" if failed else 0)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
