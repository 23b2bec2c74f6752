"""Real text for the calibration tests: Python's own documentation, which every Python has; and how it is loaded."""

from pydoc_data.topics import topics
from typing import Any

from qtoolkit.records import ProgressEvent
from qtoolkit.texts.calibration_text import Calibration, load_calibration

DOCUMENTS = [topics[name] for name in sorted(topics)][:40]
TEXT = "\n".join(DOCUMENTS)


def ignore_progress(_event: ProgressEvent) -> None:
    pass


def load(value: Any, tokenizer: Any, **changes: Any) -> Calibration:
    """`load_calibration` with 4 samples of 64 tokens."""
    options = {"num_samples": 4, "seq_len": 64, "max_seq_len": None, "vocab_size": 49152}
    return load_calibration(value, tokenizer, **({"on_progress": ignore_progress} | options | changes))


def tokens_of(tokenizer: Any, text: str) -> list[int]:
    """All tokens of a text at once."""
    return list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
