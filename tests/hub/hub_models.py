"""Repositories for the Hub tests: the right names with random content, since no weight is read here."""

import json
import random
from pathlib import Path

from qtoolkit.records import ProgressEvent

SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
INDEX = {"metadata": {}, "weight_map": {"a": SHARDS[0], "b": SHARDS[1], "c": SHARDS[1]}}


def content(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)  # noqa: S311


def single(size: int = 200_000) -> dict[str, bytes]:
    """A model in one weight file."""
    return {
        "config.json": b'{"model_type": "llama"}',
        "tokenizer.json": content(1000, seed=1),
        "model.safetensors": content(size, seed=2),
    }


def sharded(size: int = 200_000) -> dict[str, bytes]:
    """A model in two shards with an index."""
    files = single()
    del files["model.safetensors"]
    files["model.safetensors.index.json"] = json.dumps(INDEX).encode()
    return files | {name: content(size, seed=number) for number, name in enumerate(SHARDS, start=3)}


def ignore_progress(_event: ProgressEvent) -> None:
    pass


def accept(_folder: Path) -> None:
    pass
