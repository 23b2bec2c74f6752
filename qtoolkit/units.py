"""Format bytes, bits per weight and seconds as text, and parse sizes: raw numbers become text nowhere else.

Sizes are decimal (1 MB = 10**6 bytes), as on disks, on the Hub and in published tables.
"""

import re

from qtoolkit.errors import ConfigError

_BYTE_UNITS = ("bytes", "kB", "MB", "GB", "TB", "PB")


def format_bytes(count: int) -> str:
    """Return a size in bytes as text with one decimal: `269030272` -> `269.0 MB`, `999` -> `999 bytes`."""
    size = float(count)
    unit = 0
    while abs(size) >= 999.95 and unit < len(_BYTE_UNITS) - 1:
        size /= 1000
        unit += 1
    return f"{count} bytes" if unit == 0 else f"{size:.1f} {_BYTE_UNITS[unit]}"


def parse_bytes(size: int | str) -> int:
    """Return a size in bytes, also from text: `"8 GB"` -> `8000000000`, `"1.5GiB"` -> `1610612736`.

    Raises:
        ConfigError: the text is no size, or the number is below 1.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kKMGTP]?)(i?)(?:B|bytes)?\s*", str(size))
    if match is None or not float(match[1]):
        raise ConfigError(f"{size!r:.40} is no size: write it as 8 GB, 500 MB or 1.5 GiB")
    power = " KMGTP".index(match[2].upper() or " ")
    factor: int = (1024 if match[3] else 1000) ** power
    return round(float(match[1]) * factor)


def format_seconds(seconds: float) -> str:
    """Return a time as text: `3.21` -> `3.2 s`, `75` -> `1 min 15 s`, `7260` -> `2 h 1 min`."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def bits_per_weight(num_bytes: int, num_weights: int) -> float:
    """Return the bits that one weight takes, scales included: `8 * num_bytes / num_weights`.

    Example: NF4 with double quantization stores a [64, 64] weight in 2048 + 64 + 4 bytes, 4.13 bits per weight.
    """
    return 8 * num_bytes / num_weights if num_weights else 0.0


def format_bits(bits: float) -> str:
    """Return bits per weight as text with three decimals: `4.127` -> `4.127 bits per weight`."""
    return f"{bits:.3f} bits per weight"


def format_share(part: int, whole: int) -> str:
    """Return a part as a percentage of the whole with one decimal: `29, 1000` -> `2.9 %`; of nothing, `0.0 %`."""
    return f"{100 * part / whole if whole else 0.0:.1f} %"


def format_count(count: int) -> str:
    """Return a count with thousands separators: `134515008` -> `134,515,008`."""
    return f"{count:,}"


def format_items(count: int, noun: str) -> str:
    """Return a number of things as text: `1, "layer"` -> `1 layer`, `3, "layer"` -> `3 layers`."""
    return f"{count} {noun}{'s' * (count != 1)}"
