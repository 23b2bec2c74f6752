"""Say what the `.gguf` file of a model is called, and what its header tells of the model as a whole."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtoolkit.checkpoints.gguf_writing import Value
from qtoolkit.formats.gguf.token_check import notes_on_tokens
from qtoolkit.formats.gguf.vocabulary import name_of
from qtoolkit.models.tokenizer import load_tokenizer

if TYPE_CHECKING:
    from qtoolkit.models.checkpoint import Checkpoint

# What a file's name may be made of on every system.
_ODD = re.compile(r"[^\w.-]+", re.ASCII)


def file_name_of(checkpoint: "Checkpoint", quant_type: str) -> str:
    """Return the name of a file, as llama.cpp and Ollama find a type in a repository: "NAME-Q4_K_M.gguf"."""
    return f"{_ODD.sub('-', _title(checkpoint)).strip('-.') or 'model'}-{quant_type}.gguf"


def general_texts(checkpoint: "Checkpoint", tokenizer: Any) -> dict[str, str]:
    """Return the texts of a header that name a model and its licence, by their keys.

    Args:
        checkpoint: the model.
        tokenizer: of it; None for a model without.
    """
    licence = {"general.license": checkpoint.license} if checkpoint.license else {}
    return {"general.name": name_of(_title(checkpoint), tokenizer), **licence}


def notes_on_header(checkpoint: "Checkpoint", values: Mapping[str, Value], tokenizer: Any) -> tuple[str, ...]:
    """Return notes on a name that is not that of the repository or folder, and on what llama.cpp tokenizes otherwise.

    Args:
        checkpoint: the model.
        values: of the header.
        tokenizer: of it; None for a model without.

    Raises:
        UnsupportedModelError: the header gives other tokens than the tokenizer, and nothing that is known explains it.
    """
    title, name = _title(checkpoint), str(values["general.name"].content)
    notes = notes_on_tokens(tokenizer, {key: value.content for key, value in values.items()})
    if name == title:
        return notes
    why = f"llama.cpp refuses {title!r:.80} with a tokenizer that is not Phi-3's"
    return (f"the model is called {name!r:.80} in the file: {why}", *notes)


def tokenizer_of(checkpoint: "Checkpoint") -> Any:
    """Return the tokenizer of a checkpoint, which a plan has left unread."""
    if checkpoint.tokenizer is not None or checkpoint.path is None or not checkpoint.tokenizer_bytes:
        return checkpoint.tokenizer
    return load_tokenizer(checkpoint.path)


def _title(checkpoint: "Checkpoint") -> str:
    """Return what a model is called, without folders and revision."""
    return Path(checkpoint.name.partition("@")[0]).name.removesuffix(".gguf") or "model"
