"""Say what the `.gguf` file of a model is called, and what its header tells of the model as a whole."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtoolkit.models.tokenizer import load_tokenizer

if TYPE_CHECKING:
    from qtoolkit.models.checkpoint import Checkpoint

# What a file's name may be made of on every system.
_ODD = re.compile(r"[^\w.-]+", re.ASCII)


def file_name_of(checkpoint: "Checkpoint", quant_type: str) -> str:
    """Return the name of a file, as llama.cpp and Ollama find a type in a repository: "NAME-Q4_K_M.gguf"."""
    return f"{_ODD.sub('-', _title(checkpoint)).strip('-.') or 'model'}-{quant_type}.gguf"


def general_texts(checkpoint: "Checkpoint") -> dict[str, str]:
    """Return the texts of a header that name a model and its licence, by their keys."""
    return {"general.name": _title(checkpoint)} | (
        {"general.license": checkpoint.license} if checkpoint.license else {}
    )


def tokenizer_of(checkpoint: "Checkpoint") -> Any:
    """Return the tokenizer of a checkpoint, which a plan has left unread."""
    if checkpoint.tokenizer is not None or checkpoint.path is None or not checkpoint.tokenizer_bytes:
        return checkpoint.tokenizer
    return load_tokenizer(checkpoint.path)


def _title(checkpoint: "Checkpoint") -> str:
    """Return what a model is called, without folders and revision."""
    return Path(checkpoint.name.partition("@")[0]).name.removesuffix(".gguf") or "model"
