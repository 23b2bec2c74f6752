"""Open models of the Hub, a folder, a `.gguf` file or memory, and build them without their weights."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qtoolkit.models.checkpoint import Checkpoint
    from qtoolkit.models.opening import open_checkpoint
    from qtoolkit.models.output_checks import refuse_hub_cache, refuse_own_source
    from qtoolkit.models.provenance import identify
    from qtoolkit.models.tokenizer import find_tokenizer, load_tokenizer

_HOME_OF = {
    "Checkpoint": "checkpoint",
    "find_tokenizer": "tokenizer",
    "identify": "provenance",
    "load_tokenizer": "tokenizer",
    "open_checkpoint": "opening",
    "refuse_hub_cache": "output_checks",
    "refuse_own_source": "output_checks",
}
__all__ = [
    "Checkpoint",
    "find_tokenizer",
    "identify",
    "load_tokenizer",
    "open_checkpoint",
    "refuse_hub_cache",
    "refuse_own_source",
]


def __getattr__(name: str) -> Any:
    """Import each name when it is used: completion lists cached models, and must not wait for torch."""
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME_OF[name]}"), name)
