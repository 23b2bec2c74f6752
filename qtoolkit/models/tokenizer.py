"""Load the tokenizer that lies beside a model's weights, or that a loaded model was opened with."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from qtoolkit.checkpoints.panics import panics_as_errors, refuse_large_files, refuse_panics
from qtoolkit.checkpoints.remedy import lfs_problem
from qtoolkit.errors import SourceError, UnsafeCheckpointError, oneline
from qtoolkit.files import file_bytes
from qtoolkit.hub.cache import cached_commit, snapshot_folder
from qtoolkit.measure.malloc import give_memory_back, require_room
from qtoolkit.models.gguf_tokenizer import tokenizer_of_gguf
from qtoolkit.models.tokenizer_state import remember_source
from qtoolkit.noted import Noted

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


def load_tokenizer(folder: Path) -> Any:
    """Load the tokenizer in a folder.

    Args:
        folder: holds its files.

    Returns:
        The tokenizer; None where there is none.

    Raises:
        SourceError: there is one, and it cannot be read.
    """
    from transformers import AutoTokenizer

    files = [file for name in _MAIN_FILES for file in sorted(folder.glob(name))]
    if not files:
        return None
    refuse_large_files(file for name in TOKENIZER_FILES for file in folder.glob(name))
    require_room(_BYTES_TO_READ * file_bytes(folder / "tokenizer.json"))
    with _told_errors(folder, files):
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        refuse_panics(tokenizer)
        remember_source(tokenizer, folder)
    return tokenizer


def load_gguf_tokenizer(file: Path) -> Noted[Any]:
    """Load the tokenizer of a `.gguf` file.

    Args:
        file: the file, the first one of several parts.

    Returns:
        The tokenizer, with a note where it may make other tokens than the model's own.

    Raises:
        SourceError: it cannot be read.
    """
    with _told_errors(file, []):
        tokenizer = tokenizer_of_gguf(file)
        refuse_panics(tokenizer.value)
    return tokenizer


@contextmanager
def _told_errors(place: Path, files: Iterable[Path]) -> Iterator[None]:
    """Raise a SourceError for whatever reading a tokenizer raises.

    Args:
        place: where it is.
        files: that may be pointers to others.
    """
    try:
        with panics_as_errors():
            yield
    except Exception as error:  # the tokenizers library raises bare Exceptions
        way = "give one as tokenizer="
        if "trust_remote_code" in str(error):
            what = f"the tokenizer in {place} needs code from its repository, which qtoolkit never runs"
            raise UnsafeCheckpointError(f"{what}: {way}") from error
        pointer = next(filter(None, map(lfs_problem, files)), "")
        raise SourceError(pointer or f"the tokenizer in {place} cannot be read ({oneline(error)}): {way}") from error
    finally:
        # Reading a large vocabulary takes twice the memory that the vocabulary then holds.
        give_memory_back()


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
