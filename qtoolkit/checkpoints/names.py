"""What the files of a checkpoint are called, and texts on the Hub; apart, so that looking them up loads no torch."""

import re
from dataclasses import dataclass
from typing import Any, TypeGuard

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
# What auto-gptq reads of a GPTQ checkpoint, and early versions of it wrote alone.
QUANTIZE_CONFIG = "quantize_config.json"
# What qtoolkit writes down of a model that it made: a `Receipt`.
RECEIPT_FILE = "qtoolkit.json"
# What peft writes beside an adapter's weights, and transformers looks for beside a model's.
ADAPTER_CONFIG = "adapter_config.json"
# Folders in which a Hub model's headers stand for a moment begin so.
HEADERS_PREFIX = "qtoolkit-headers-"
# Weights of something else beside a model's: a second copy in another naming, an adapter.
OTHER_WEIGHTS = ("consolidated*", "adapter_*")
# How the Hub says that a model was made from another; it knows no others.
BASE_MODEL_RELATIONS = ("finetune", "adapter", "merge", "quantized")
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


def is_hub_id(name: Any) -> bool:
    """Whether it is a text that looks like "org/name"; whether there is such a model is not asked."""
    return isinstance(name, str) and re.fullmatch(r"[A-Za-z0-9_.-]+/[A-Za-z0-9_.-]+", name) is not None


def is_commit_hash(text: Any) -> TypeGuard[str]:
    """Whether it is a commit of the Hub: 40 hexadecimal digits."""
    return isinstance(text, str) and re.fullmatch("[0-9a-f]{40}", text) is not None


@dataclass(frozen=True)
class HubText:
    """A text on the Hub.

    Attributes:
        repo_id: the dataset repository.
        file: its file to calibrate on, of the training split.
        held_out: its file to measure quality on, which is another split.
        builder: what the package datasets calls the file's format.
        is_stream: whether only the beginning of the file is read.
        rows_are_documents: otherwise rows are lines of one text, which GPTQ's authors join with an empty line between.
    """

    repo_id: str
    file: str
    held_out: str
    builder: str
    is_stream: bool
    rows_are_documents: bool


HUB_TEXTS = {
    "wikitext2": HubText(
        repo_id="Salesforce/wikitext",
        file="wikitext-2-raw-v1/train-00000-of-00001.parquet",
        held_out="wikitext-2-raw-v1/test-00000-of-00001.parquet",
        builder="parquet",
        is_stream=False,
        rows_are_documents=False,
    ),
    "c4": HubText(
        repo_id="allenai/c4",
        file="en/c4-train.00000-of-01024.json.gz",
        held_out="en/c4-validation.00000-of-00008.json.gz",
        builder="json",
        is_stream=True,
        rows_are_documents=True,
    ),
}
