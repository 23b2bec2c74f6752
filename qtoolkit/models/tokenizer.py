"""Load the tokenizer that lies beside a model's weights, or that a loaded model was opened with."""

import os
from pathlib import Path
from typing import Any

from qtoolkit.checkpoints.panics import panics_as_errors, refuse_large_files, refuse_panics
from qtoolkit.checkpoints.remedy import lfs_problem
from qtoolkit.errors import SourceError, UnsafeCheckpointError, oneline
from qtoolkit.files import file_bytes
from qtoolkit.hub.cache import cached_commit, snapshot_folder
from qtoolkit.measure.malloc import give_memory_back, require_room
from qtoolkit.models.tokenizer_state import remember_source

# Memory that reading a tokenizer takes at its peak, in bytes for each byte of its file: 14.5, as plans say.
_BYTES_TO_READ = 15
# Files of which transformers needs one for a tokenizer.
_MAIN_FILES = ("tokenizer.json", "tokenizer_config.json", "*.model", "vocab.json", "vocab.txt", "tekken.json")
# All files that transformers reads for one.
TOKENIZER_FILES = (
    *_MAIN_FILES,
    *("merges.txt", "special_tokens_map.json", "added_tokens.json"),
    *("chat_template*", "additional_chat_templates/*.jinja"),
)


def load_tokenizer(folder: Path, *, gguf_file: str | None = None) -> Any:
    """Load the tokenizer in a folder.

    Args:
        folder: holds its files.
        gguf_file: the name of a `.gguf` file in the folder, which holds it instead.

    Returns:
        The tokenizer; None where there is none.

    Raises:
        SourceError: there is one, and it cannot be read.
    """
    files = [file for name in _MAIN_FILES for file in sorted(folder.glob(name))]
    if gguf_file is None and not files:
        return None
    refuse_large_files(file for name in TOKENIZER_FILES for file in folder.glob(name))
    require_room(_BYTES_TO_READ * file_bytes(folder / "tokenizer.json"))
    try:
        with panics_as_errors():
            tokenizer = _read(folder, gguf_file)
        refuse_panics(tokenizer)
        if gguf_file is None:
            remember_source(tokenizer, folder)
        return tokenizer  # noqa: TRY300  # all of this is foreign code
    except Exception as error:  # the tokenizers library raises bare Exceptions
        way = "give one as tokenizer="
        if "trust_remote_code" in str(error):
            what = f"the tokenizer in {folder} needs code from its repository, which qtoolkit never runs"
            raise UnsafeCheckpointError(f"{what}: {way}") from error
        pointer = next(filter(None, map(lfs_problem, files)), "")
        raise SourceError(pointer or f"the tokenizer in {folder} cannot be read ({oneline(error)}): {way}") from error
    finally:
        # Reading a large vocabulary takes twice the memory that the vocabulary then holds.
        give_memory_back()


def _read(folder: Path, gguf_file: str | None) -> Any:
    """Read a tokenizer by transformers, whatever that raises."""
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    if gguf_file is None:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False, gguf_file=gguf_file)
    except ValueError:
        # It looks for the kind of model first, of which transformers knows fewer than of tokenizers.
        return PreTrainedTokenizerFast.from_pretrained(folder, gguf_file=gguf_file)


def find_tokenizer(name: str) -> Any:
    """Load the tokenizer of a model in memory from where the model came from; None where there is none.

    Args:
        name: the model's `name_or_path`, as for `find_folder`.
    """
    folder = find_folder(name)
    return load_tokenizer(folder) if folder is not None else None


def find_folder(name: str) -> Path | None:
    """Return the folder that a model in memory came from; None where it is not on this machine.

    Args:
        name: the model's `name_or_path`: a folder, or a Hub id whose commit is looked for in the local cache alone.
    """
    if not name:
        return None
    if os.path.isdir(name):  # noqa: PTH112
        return Path(name)
    commit_hash = cached_commit(name, None)
    folder = snapshot_folder(name, commit_hash) if commit_hash else None
    return folder if folder is not None and folder.is_dir() else None
