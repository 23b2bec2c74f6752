"""Load what `write_adapters.py` wrote with transformers and peft, without qtoolkit, and compare logits."""

import sys
from pathlib import Path

import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, CompressedTensorsConfig

# Of logits, as a share of them: readers multiply in other types.
ALIKE = 0.03


def main(folder: Path, names: list[str]) -> int:
    """Load all adapters of these models; returns how many differ."""
    bad = 0
    for name in names:
        expected = load_file(folder / name / "expected.safetensors")
        for adapter in ("repair", "trained"):
            # peft 0.21 asks each layer for its `weight`, which packed ones have not.
            packed = name == "compressed-tensors"
            options = {"quantization_config": CompressedTensorsConfig(run_compressed=False)} if packed else {}
            model = AutoModelForCausalLM.from_pretrained(folder / name / "model", device_map="cpu", **options)
            with torch.no_grad():
                found = PeftModel.from_pretrained(model, folder / name / adapter)(input_ids=expected["tokens"]).logits
            far = float((found.float() - expected[adapter]).norm() / expected[adapter].norm())
            moved = float((expected[adapter] - expected["plain"]).norm() / expected["plain"].norm())
            is_same = far < ALIKE and far < moved / 3
            bad += not is_same
            print(
                f"{name} {adapter}: {far:.4f} from ours, the adapter moves {moved:.3f}{'' if is_same else '  DIFFERS'}"
            )
    assert "qtoolkit" not in sys.modules
    return bad


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
