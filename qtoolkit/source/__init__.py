"""Where a model comes from: the Hub, a folder, a `.gguf` file, or memory."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qtoolkit.source.apart import refuse_hub_cache, refuse_own_source
    from qtoolkit.source.checkpoint import Checkpoint
    from qtoolkit.source.hub import Snapshot, fetch
    from qtoolkit.source.hub_cache import local_models
    from qtoolkit.source.hub_mirror import HubMirror
    from qtoolkit.source.opening import load_tokenizer, open_checkpoint
    from qtoolkit.source.provenance import identify
    from qtoolkit.source.search import find_models
    from qtoolkit.source.weights import StoredTensor, read_tensors

_HOME_OF = {
    "Checkpoint": "checkpoint",
    "HubMirror": "hub_mirror",
    "Snapshot": "hub",
    "StoredTensor": "weights",
    "fetch": "hub",
    "find_models": "search",
    "identify": "provenance",
    "load_tokenizer": "opening",
    "local_models": "hub_cache",
    "open_checkpoint": "opening",
    "read_tensors": "weights",
    "refuse_hub_cache": "apart",
    "refuse_own_source": "apart",
}
__all__ = [
    "Checkpoint",
    "HubMirror",
    "Snapshot",
    "StoredTensor",
    "fetch",
    "find_models",
    "identify",
    "load_tokenizer",
    "local_models",
    "open_checkpoint",
    "read_tensors",
    "refuse_hub_cache",
    "refuse_own_source",
]


def __getattr__(name: str) -> Any:
    """Each name on demand: completion asks which models are cached, and must not wait for torch."""
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME_OF[name]}"), name)
