"""Name what stands on the Hub: models, commits, relations and texts; apart, so that looking them up loads no torch."""

import re
from dataclasses import dataclass
from typing import Any, TypeGuard

from qtoolkit.errors import masked

# How the Hub says that a model was made from another; it knows no others.
BASE_MODEL_RELATIONS = ("finetune", "adapter", "merge", "quantized")


def is_hub_id(name: Any) -> bool:
    """Check whether a value is a text like "org/name"; the Hub is not asked whether there is such a model."""
    return isinstance(name, str) and re.fullmatch(r"[A-Za-z0-9_.-]+/[A-Za-z0-9_.-]+", name) is not None


def is_commit_hash(text: Any) -> TypeGuard[str]:
    """Check whether a value is a commit hash of the Hub: 40 hexadecimal digits."""
    return isinstance(text, str) and re.fullmatch("[0-9a-f]{40}", text) is not None


def without_address(name: str) -> str:
    """Return the Hub id that a pasted address of a model's page stands for; any other name as it is.

    Example:
        >>> without_address("https://huggingface.co/org/name/tree/v1.0")
        'org/name@v1.0'
        >>> without_address("huggingface.co/org/name/blob/main/model-Q4_K_M.gguf?download=true")
        'org/name/model-Q4_K_M.gguf'
    """
    page = re.fullmatch(
        r"(?:https?://)?(?:www\.)?(?:huggingface\.co|hf\.co)/([\w.-]+/[\w.:-]+)(?:/(?:tree|blob|resolve)/([^/?#]+))?(/[^?#]*)?"
        r"(?:[?#].*)?",
        name.strip(),
    )
    is_other = page is not None and page[1].partition("/")[0] in ("datasets", "spaces", "models", "docs")
    # A token that stands in an address is refused with the whole of it, and not left out in silence.
    if page is None or is_other or masked(name) != name:
        return name
    file = page[3] if page[3] and page[3].lower().endswith(".gguf") else ""
    return page[1] + file + (f"@{page[2]}" if page[2] not in (None, "main") else "")


@dataclass(frozen=True)
class HubText:
    """A data set on the Hub to calibrate on and to measure quality with.

    Attributes:
        repo_id: the dataset repository.
        file: its file of the training split, to calibrate on.
        held_out: its file of another split, to measure quality on.
        builder: what the package datasets calls the file's format.
        is_stream: whether only the beginning of the file is read.
        rows_are_documents: whether each row is a document; otherwise rows are lines of one text, which GPTQ's
            authors join with an empty line between.
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
