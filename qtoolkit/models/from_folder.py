"""Open a model that lies in a folder as safetensors."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from qtoolkit.checkpoints import folder as folders
from qtoolkit.checkpoints.adapters import adapters_below
from qtoolkit.checkpoints.config_limits import check_against_weights, without_code
from qtoolkit.checkpoints.remedy import refuse_pointers
from qtoolkit.files import file_bytes
from qtoolkit.hub.licenses import ancestry, inherited, license_of_folder, read_card
from qtoolkit.models.checkpoint import Checkpoint
from qtoolkit.models.dtypes import dtype_to_load
from qtoolkit.models.opening_notes import opening_notes
from qtoolkit.models.tokenizer import TOKENIZER_FILES, load_tokenizer


def open_folder(
    name: str, folder: Path, tokenizer: Any, check: Callable[[Path], None], *, headers_only: bool = False
) -> Checkpoint:
    """Check a folder, and open it; no weight is read.

    Args:
        name: what the user called the model.
        folder: holds `config.json` and the weights.
        tokenizer: one to use instead of the folder's own; None for that.
        check: refuses the model by its config.
        headers_only: leave the folder's tokenizer unread.

    Raises:
        SourceError: as `open_checkpoint`.
    """
    check(folder)
    tensors = folders.read_weights(folder)
    values = folders.read_config(folder)
    check_against_weights(name, values, {key: tensor.shape for key, tensor in tensors.items()})
    config = folders.load_config(folder)
    dtype = dtype_to_load(name, config, tensors)
    if tokenizer is None:
        refuse_pointers(folder, TOKENIZER_FILES)
        tokenizer = None if headers_only else load_tokenizer(folder)
    card = read_card(folder)
    checkpoint = Checkpoint(
        name=name,
        config=config,
        tensors=tensors,
        dtype=dtype,
        format="safetensors",
        path=folder,
        disk_size=sum(file.stat().st_size for file in folders.weight_files(folder)),
        tokenizer=tokenizer,
        generation_config=folders.load_generation_config(folder),
        tokenizer_bytes=file_bytes(folder / "tokenizer.json"),
        license=license_of_folder(folder),
        inherited=inherited(card) | ancestry(card),
        checked="not checked: a folder, of which no hashes are known",
    )
    checkpoint = checkpoint.with_layers_apart()
    left_out = [f"left out of its config, since it fetches or runs code: {what}" for what in without_code(values)[1]]
    adapters = [
        f"left out, since transformers does not apply it: the adapter in the folder {inner!r:.80}"
        for inner in adapters_below(folder)
    ]
    return checkpoint.with_notes(*left_out, *adapters, *opening_notes(checkpoint, reads_tokenizer=not headers_only))
