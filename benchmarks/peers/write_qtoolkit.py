"""Quantize a folder with qt.GPTQ, or qt.GGUF for a quant_type or target_size: MODEL OUTPUT TOKENS.json OPTIONS.json.

The calibration text is among the options.
"""

import json
import sys
from pathlib import Path

import torch
import transformers.models.llama.modeling_llama  # noqa: F401  # imports are no part of the work
from report import finished, started

import qtoolkit as qt


def main(model: str, output: str, tokens: str, options: str) -> None:
    """Quantize, check that the samples are those of all, and say what it took."""
    from qtoolkit.texts.calibration_text import fingerprint_of

    expected = fingerprint_of(torch.tensor(json.loads(Path(tokens).read_text(encoding="utf-8"))))
    fields = json.loads(options)
    config = qt.GGUF(**fields) if {"quant_type", "target_size"} & set(fields) else qt.GPTQ(**fields)
    begin = started()
    result = qt.quantize(model, config, output=output, overwrite=True, device="cpu")
    finished(begin)
    calibration = result.report.calibration
    if fields.get("solve", True) and (calibration is None or calibration.fingerprint != expected):
        sys.exit("qtoolkit was calibrated on other tokens than the others")


main(*sys.argv[1:])
