"""Small JSON files that carry a hash of what they say, so that a damaged one is told from one that is whole."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# Far above what a block of thousands of experts has to say.
_MAX_BYTES = 2**24
_SEAL = "seal"


def digest_of(values: Mapping[str, Any]) -> str:
    """SHA-256 of JSON-ready values, in hexadecimal digits; the order of keys does not matter."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def sealed(values: Mapping[str, Any]) -> bytes:
    """JSON-ready values as a file's bytes, with their hash."""
    return json.dumps({**values, _SEAL: digest_of(values)}, indent=2).encode()


def read_object(file: Path) -> dict[str, Any]:
    """Return the JSON object in a file, sealed or not; empty where it is missing, damaged, too large or no file."""
    try:
        if not file.is_file() or file.stat().st_size > _MAX_BYTES:
            return {}
        values = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return values if isinstance(values, dict) else {}


def is_sealed(values: Mapping[str, Any]) -> bool:
    """Return whether an object says what it was sealed with."""
    try:
        return values.get(_SEAL) == digest_of(without_seal(values))
    except RecursionError:
        return False


def claims_a_seal(values: Mapping[str, Any]) -> bool:
    """Return whether an object has a seal, right or wrong."""
    return _SEAL in values


def without_seal(values: Mapping[str, Any]) -> dict[str, Any]:
    """What an object says beside its seal."""
    return {key: value for key, value in values.items() if key != _SEAL}
