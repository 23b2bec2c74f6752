"""Quantize a folder with gptqmodel: MODEL OUTPUT TOKENS.json OPTIONS.json, the fields of its QuantizeConfig."""

import json
import sys
from pathlib import Path
from typing import Any

from gptqmodel import GPTQModel
from gptqmodel.quantization import QuantizeConfig
from gptqmodel.quantization.config import FOEMConfig, GPTAQConfig
from report import finished, started

CONFIGS: dict[str, Any] = {"gptaq": GPTAQConfig, "foem": FOEMConfig}


def main(model: str, output: str, tokens: str, options: str) -> None:
    """Quantize, and say what it took."""
    fields = json.loads(options)
    for name in CONFIGS.keys() & fields.keys():
        fields[name] = CONFIGS[name](device="cpu", **fields[name])
    samples = json.loads(Path(tokens).read_text(encoding="utf-8"))
    rows = [{"input_ids": row, "attention_mask": [1] * len(row)} for row in samples]
    begin = started()
    quantizer = GPTQModel.load(model, QuantizeConfig(device="cpu", **fields))
    quantizer.quantize(rows, batch_size=1)
    finished(begin)
    quantizer.save(output)


main(*sys.argv[1:])
