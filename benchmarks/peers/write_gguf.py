"""Quantize a folder with qt.GGUF: MODEL OUTPUT OPTIONS.json."""

import json
import sys

import transformers.models.qwen2.modeling_qwen2  # noqa: F401  # imports are no part of the work
from report import finished, started

import qtoolkit as qt


def main(model: str, output: str, options: str) -> None:
    """Quantize, and say what it took."""
    begin = started()
    qt.quantize(model, qt.GGUF(**json.loads(options)), output=output, overwrite=True, device="cpu")
    finished(begin)


main(*sys.argv[1:])
