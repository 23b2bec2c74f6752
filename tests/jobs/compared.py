"""A small comparison that several tests run."""

from pathlib import Path
from typing import Any

import qtoolkit as qt
from qtoolkit.records import Comparison

TEXT = [f"The {number}th boat of the harbour carries {number * 7} lamps and a bell of brass." for number in range(40)]


def compare(model: Any, configs: Any, output: Path, **changes: Any) -> Comparison:
    """A comparison on three windows of 32 tokens, without speed."""
    options: dict[str, Any] = {"text": TEXT, "seq_len": 32, "num_tokens": 96, "device": "cpu", "output": output}
    options["speed"] = False
    return qt.compare(model, configs, **options | changes)


def figures(comparison: Comparison) -> dict[str, tuple[object, ...]]:
    """What does not depend on how fast the machine is."""
    return {
        result.label: (result.kl_divergence, result.footprint, result.disk, result.settings, result.answers)
        for result in comparison.results
    }
