"""Say what the base of an adapter is called, so that others find it."""

from pathlib import Path
from typing import NamedTuple

from qtoolkit.publishing import read_receipt


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
