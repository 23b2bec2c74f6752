"""Load checkpoints of `write_*.py` with qtoolkit and compare its logits with those of their writers."""

import sys
from pathlib import Path

import torch
from common import compare, written

import qtoolkit as qt


def load(path: Path) -> torch.nn.Module:
    """Weights and products in float32."""
    return qt.load(path, device="cpu", dtype="float32").model


if __name__ == "__main__":
    # The writers multiply in float16 through two blocks.
    sys.exit("\n".join(compare("qtoolkit", written(Path(sys.argv[1])), load, tolerance=0.03)) or 0)
