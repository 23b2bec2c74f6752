"""Small GPTQ jobs that several tests run."""

from typing import Any

import qtoolkit as qt

# Texts that no network is needed for, different enough to make no two samples alike.
TEXTS = [
    " ".join(f"The {noun} of the {place} was {verb} by {count} others." for count in range(2, 40))
    for noun, place, verb in [
        ("bridge", "old town", "followed"),
        ("queen", "northern sea", "remembered"),
        ("theory", "small numbers", "refined"),
        ("orchestra", "empty station", "joined"),
    ]
]


def gptq(**changes: Any) -> qt.GPTQ:
    """A config that takes seconds on a model with SmolLM2's tokenizer."""
    return qt.GPTQ(**{"calibration": TEXTS, "num_samples": 8, "seq_len": 64, "group_size": 32} | changes)
