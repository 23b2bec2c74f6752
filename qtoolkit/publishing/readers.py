"""Tell what reads a quantized model, by its format: transformers with or without packages, qtoolkit, other programs."""

from typing import NamedTuple

from qtoolkit.formats import FileFormat, Format, get_format
from qtoolkit.methods import config_class, packages_of_method
from qtoolkit.publishing.artifact import Artifact
from qtoolkit.publishing.contract_check import stored_in
from qtoolkit.readers import Stored
from qtoolkit.records import Check, Receipt


class Reader(NamedTuple):
    """How transformers reads a folder here.

    Attributes:
        description: "without qtoolkit", "once qtoolkit is imported" or "through" some packages or qtoolkit itself.
        with_qtoolkit: whether it reads the folder only once qtoolkit is imported.
        missing: packages without which it does not read the folder at all, and which are not installed; mostly empty.
    """

    description: str
    with_qtoolkit: bool = False
    missing: str = ""


def reader_of(artifact: Artifact) -> Reader:
    """Return how transformers reads a folder on this machine."""
    format_ = artifact.format
    if format_ is None:
        return Reader("without qtoolkit")
    missing = format_.missing_packages()
    if isinstance(format_, FileFormat):
        return Reader("through qtoolkit", with_qtoolkit=True, missing=", ".join(missing))
    alone = format_.reads_alone(artifact.quantization or {})
    if format_.packages is None or (format_.reads_itself and (missing or not alone)):
        return Reader("once qtoolkit is imported", with_qtoolkit=True)
    if artifact.given_values or (not format_.experts_alone and _has_experts(artifact)):
        return Reader("once qtoolkit is imported", with_qtoolkit=True, missing=", ".join(missing))
    if format_.reads_itself:
        return Reader(f"through {' and '.join(format_.packages)}")
    return Reader("without qtoolkit", missing=", ".join(missing))


def check_other_readers(artifact: Artifact) -> list[Check]:
    """Return a check, not made, of the other program that reads such a folder where it is not installed here."""
    format_ = artifact.format
    if format_ is None or not format_.reads_itself or not format_.missing_packages():
        return []
    if not format_.reads_alone(artifact.quantization or {}):
        return []
    *rest, reader = format_.packages or ("",)
    absent = " and ".join((reader, *rest))
    return [Check(f"loads in {reader}", None, "not tried", f"{absent} are not installed here")]


def format_of_receipt(receipt: Receipt) -> Format:
    """Return the format that a receipt names among its options, or the one that its method had without that option."""
    config = config_class(receipt.method)
    named = receipt.settings.get("format")
    return get_format(named if isinstance(named, str) else config.absent().get("format", config.format))


def needs_qtoolkit(receipt: Receipt, stored: Stored | None) -> bool:
    """Check whether transformers reads the model only once qtoolkit is imported.

    Args:
        receipt: of the model.
        stored: how its folder stores it; None where that is not known.
    """
    format_ = format_of_receipt(receipt)
    if stored is not None and (stored.given_values or (stored.experts and not format_.experts_alone)):
        return True
    return format_.needs_qtoolkit(receipt.settings)


def packages_of(receipt: Receipt, stored: Stored | None) -> str:
    """Return the packages, beside torch, that pip must install so that `from_pretrained` reads the model."""
    format_ = format_of_receipt(receipt)
    own = () if format_.reads_itself and needs_qtoolkit(receipt, stored) else format_.packages or ()
    return " ".join(("transformers", "accelerate", *own))


def other_packages_of(receipt: Receipt, stored: Stored | None) -> tuple[str, ...]:
    """Return the packages that bring the method or the format, without which qtoolkit does not read the model."""
    return packages_of_method(receipt.method) if needs_qtoolkit(receipt, stored) else ()


def readers_of(receipt: Receipt, stored: Stored | None) -> str:
    """Return sentences on how the model is read, beside what the reader contract says."""
    readers = format_of_receipt(receipt).readers(receipt.settings)
    packages = other_packages_of(receipt, stored)
    own = f"qtoolkit reads it with {' and '.join(packages)} installed." if packages else ""
    return " ".join(filter(None, (readers, own)))


def _has_experts(artifact: Artifact) -> bool:
    """Check whether a folder stores experts quantized, each as layers of its own."""
    stored = stored_in(artifact)
    return stored is not None and bool(stored.experts)
