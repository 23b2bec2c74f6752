"""Order the versions of programs by their numbers."""

import re


def version_key(version: str) -> tuple[int, ...]:
    """Return the numbers of a version, by which versions are ordered; zeros at the end count for nothing.

    Example: "0.10" is "0.10.0", newer than "0.9.2", and older than "0.10.1.post1".

        >>> version_key("0.9.2") < version_key("0.10") == version_key("0.10.0") < version_key("0.10.1.post1")
        True
    """
    numbers = [int(digits) for digits in re.findall(r"\d+", version)]
    while numbers and not numbers[-1]:
        numbers.pop()
    return tuple(numbers)
