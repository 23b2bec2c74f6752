"""Say what the base of an adapter is called, so that others find it, and by which hashes it is known."""

import json
from pathlib import Path
from typing import NamedTuple

from qtoolkit.checkpoints.filenames import ADAPTER_CONFIG
from qtoolkit.files import read_json
from qtoolkit.publishing import read_receipt

# Beside an adapter that was trained on a folder of qtoolkit's: by which weights that folder is known.
TRAINED_ON = "qtoolkit_trained_on.json"
_FINGERPRINT = "weights_fingerprint"


class PublicBase(NamedTuple):
    """Hold the name of a base without folders of this machine, and its commit; None where that is not known."""

    name: str | None
    revision: str | None


def own_name(name: str) -> str:
    """Return a model's name without folders of this machine: a Hub id as it is, or the folder's own name."""
    return Path(name).resolve().name if Path(name).exists() else name


def public_base(name: str | None) -> PublicBase:
    """Return what others find the base of an adapter by.

    Args:
        name: what the quantized model was loaded by: a Hub id or a folder; None where nobody named it.

    Returns:
        A Hub id as it is. For a folder that qtoolkit wrote, the model in its receipt and the commit of that; for
        another folder its own name, without a path.

    Raises:
        CheckpointError: the receipt of the folder is damaged.
    """
    folder = Path(name) if name else None
    if folder is None or not folder.is_dir():
        return PublicBase(name, None)
    receipt = read_receipt(folder)
    if receipt is None:
        return PublicBase(folder.resolve().name, None)
    return PublicBase(receipt.source.name, receipt.source.commit_hash)


def write_trained_on(name: str | None, adapter: Path) -> None:
    """Write beside an adapter by which hashes the quantized model is known that it was trained on.

    Args:
        name: what that model was loaded by; nothing is written where it is no folder with a receipt.
        adapter: a folder, which has the adapter's config.

    Raises:
        CheckpointError: the receipt of the folder is damaged.
    """
    folder = Path(name) if name else None
    receipt = read_receipt(folder) if folder is not None and folder.is_dir() else None
    if receipt is not None and receipt.weights_fingerprint and (adapter / ADAPTER_CONFIG).is_file():
        (adapter / TRAINED_ON).write_text(trained_on_text(receipt.weights_fingerprint), encoding="utf-8")


def trained_on_text(fingerprint: str) -> str:
    """Return what stands beside an adapter that was trained on the weights of a fingerprint."""
    return json.dumps({_FINGERPRINT: fingerprint}, indent=2) + "\n"


def trained_on(adapter: Path) -> str | None:
    """Return the fingerprint of the weights that an adapter was trained on; None where nothing tells it.

    Raises:
        CheckpointError: what tells it is damaged.
    """
    file = adapter / TRAINED_ON
    value = read_json(file).get(_FINGERPRINT) if file.is_file() else None
    return value if isinstance(value, str) else None
