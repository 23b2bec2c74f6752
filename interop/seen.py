"""Keep what a reader did with a checkpoint, beside it: `rows.py` holds that against the reader contract.

Needs nothing, since each reader runs elsewhere.
"""

import json
from pathlib import Path

_SEEN = "seen-by-{}.json.test"


def keep_seen(path: Path, reader: str, loads: bool) -> None:
    """Keep that a reader, by its name in the contract, loads a checkpoint or does not."""
    (path / _SEEN.format(reader)).write_text(json.dumps({reader: loads}))


def seen_in(path: Path) -> dict[str, bool]:
    """What was kept of a checkpoint: by the names of the readers, whether they load it."""
    found: dict[str, bool] = {}
    for file in path.glob(_SEEN.format("*")):
        found |= json.loads(file.read_text())
    return found
