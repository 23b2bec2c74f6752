"""Open a folder that qtoolkit put around a `.gguf` file."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from qtoolkit.checkpoints.folder import load_config, load_generation_config
from qtoolkit.files import file_bytes
from qtoolkit.hub.licenses import ancestry, inherited, license_of_folder, read_card
from qtoolkit.models.checkpoint import Checkpoint
from qtoolkit.models.from_gguf import open_gguf
from qtoolkit.models.tokenizer import load_tokenizer


def open_gguf_folder(
    name: str, folder: Path, file: Path, tokenizer: Any, check: Callable[[Path], None], *, headers_only: bool = False
) -> Checkpoint:
    """Open a folder that qtoolkit put around a `.gguf` file: config and tokenizer are the folder's.

    Args:
        name: what the user called the model.
        folder: holds `config.json` and the file.
        file: that the config names.
        tokenizer, headers_only: as for `open_gguf`.
        check: refuses the model by its config.

    Raises:
        SourceError, MissingDependencyError: as `open_gguf`.
    """
    check(folder)
    if tokenizer is None and not headers_only:
        tokenizer = load_tokenizer(folder)
    opened = open_gguf(file, tokenizer, headers_only=headers_only)
    card = read_card(folder)
    return replace(
        opened,
        name=name,
        config=load_config(folder),
        generation_config=load_generation_config(folder),
        tokenizer_bytes=file_bytes(folder / "tokenizer.json"),
        license=license_of_folder(folder),
        inherited=inherited(card) | ancestry(card),
        notes=("the .gguf file is expanded to bfloat16 here; llama.cpp runs it as it is stored",),
        _built=[],
    )
