"""Write and read the receipt of an adapter, which names the quantized model that it belongs to by its files' hashes."""

import json
from collections.abc import Iterable
from pathlib import Path

from qtoolkit.checkpoints.filenames import ADAPTER_RECEIPT
from qtoolkit.checkpoints.gguf_parts import parts_of
from qtoolkit.errors import CheckpointError, ConfigError
from qtoolkit.files import read_json, sha256_of, write_whole
from qtoolkit.records import AdapterReceipt, FileEntry


def weight_files_of(base: Path) -> tuple[Path, ...]:
    """Return the weight files of a model: of a folder, or of a file and its further parts.

    Args:
        base: a folder, or a `.gguf` file.
    """
    if base.is_file():
        return parts_of(base)
    files = sorted(file for suffix in ("*.safetensors", "*.gguf") for file in base.glob(suffix))
    return tuple(file for file in files if not file.name.startswith("adapter"))


def entries_of(files: Iterable[Path]) -> dict[str, FileEntry]:
    """Return size and hash of each file, by its name."""
    return {file.name: FileEntry(file.stat().st_size, sha256_of(file)) for file in files}


def write_adapter_receipt(folder: Path, receipt: AdapterReceipt) -> None:
    """Write a receipt beside an adapter."""
    text = json.dumps(receipt.to_dict(), indent=2, sort_keys=True, allow_nan=False)
    write_whole(folder / ADAPTER_RECEIPT, text.encode())


def read_adapter_receipt(folder: Path) -> AdapterReceipt | None:
    """Return the receipt of an adapter that was computed; None where there is none, as of one that was trained.

    Raises:
        CheckpointError: it cannot be read.
    """
    file = folder / ADAPTER_RECEIPT
    if not file.is_file():
        return None
    try:
        return AdapterReceipt.from_dict(read_json(file))
    except ConfigError as error:
        raise CheckpointError(f"{file} is damaged ({error}): get the adapter again") from error
