"""What reads a published model, for its card: what is known to, by its format; what was not tried is told as such."""

from qtoolkit.formats import Format, get_format
from qtoolkit.methods import config_class, packages_of_method
from qtoolkit.records import Receipt


def format_of_receipt(receipt: Receipt) -> Format:
    """The format in which its method stores codes."""
    return get_format(config_class(receipt.method).format)


def packages_of(receipt: Receipt) -> str:
    """What pip must install so that `from_pretrained` reads the model, beside torch."""
    found = format_of_receipt(receipt)
    own = () if found.needs_qtoolkit(receipt.settings) else found.packages or ()
    return " ".join(("transformers", "accelerate", *own))


def other_packages_of(receipt: Receipt) -> tuple[str, ...]:
    """The packages beside qtoolkit that bring the method or the format, without which qtoolkit does not read it."""
    return packages_of_method(receipt.method) if needs_qtoolkit(receipt) else ()


def needs_qtoolkit(receipt: Receipt) -> bool:
    """Whether transformers reads the model only once qtoolkit is imported."""
    return format_of_receipt(receipt).needs_qtoolkit(receipt.settings)


def readers_of(receipt: Receipt) -> str:
    """Which other programs read it."""
    told, packages = format_of_receipt(receipt).readers(receipt.settings), other_packages_of(receipt)
    return f"{told} qtoolkit reads them with {' and '.join(packages)} installed." if packages else told
