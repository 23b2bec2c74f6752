"""Quantize a small Llama with optimum + gptqmodel in several ways, and keep the logits that it computes."""

import json
import sys
from pathlib import Path

from common import KINDS, keep, random_llama, random_samples
from optimum.gptq import GPTQQuantizer
from read_gptqmodel import load


def correct_format(path: Path) -> None:
    """optimum 2.3 names "gptq_v2" in config.json for what it writes as "gptq", as quantize_config.json says."""
    config, right = (
        json.loads((path / "config.json").read_text()),
        json.loads((path / "quantize_config.json").read_text()),
    )
    config["quantization_config"]["format"] = right["format"]
    (path / "config.json").write_text(json.dumps(config))


def main(folder: Path) -> None:
    """Write all kinds."""
    for name, kind in KINDS.items():
        quantizer = GPTQQuantizer(group_size=32, act_group_aware=not kind["desc_act"], dataset=random_samples(), **kind)
        model = quantizer.quantize_model(random_llama(seed=1))
        # Its samples are tensors, which JSON cannot hold.
        quantizer.dataset = model.config.quantization_config["dataset"] = None
        quantizer.save(model, str(folder / name))
        correct_format(folder / name)
        keep(load(folder / name), folder / name)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
