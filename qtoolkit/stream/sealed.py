"""Write and check JSON objects that carry a hash of their values (a seal), so that damaged files are recognized."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qtoolkit.files import read_json

# Far more than the record of a block with thousands of experts.
_MAX_BYTES = 2**24
# The key of the hash in an object.
SEAL = "seal"


def digest_of(values: Mapping[str, Any]) -> str:
    """Return the SHA-256 of JSON-ready values in hexadecimal digits; the order of keys does not matter."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def sealed(values: Mapping[str, Any]) -> bytes:
    """Return JSON-ready values with their hash as a file's bytes."""
    return json.dumps({**values, SEAL: digest_of(values)}, indent=2).encode()


def read_object(file: Path) -> dict[str, Any]:
    """Return the JSON object in a file, sealed or not; empty if it is missing, damaged, too large or too deep."""
    return read_json(file, max_bytes=_MAX_BYTES)


def is_sealed(values: Mapping[str, Any]) -> bool:
    """Return whether an object has the right seal."""
    return values.get(SEAL) == digest_of(without_seal(values))


def without_seal(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return an object without its seal."""
    return {key: value for key, value in values.items() if key != SEAL}
