"""The Hugging Face Hub: what it has, what of it is on this machine, and the way from one to the other."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qtoolkit.hub.cache import local_models
    from qtoolkit.hub.mirror import HubMirror
    from qtoolkit.hub.search import find_models

_HOME_OF = {
    "HubMirror": "mirror",
    "find_models": "search",
    "local_models": "cache",
}
__all__ = ["HubMirror", "find_models", "local_models"]


def __getattr__(name: str) -> Any:
    """Give each name on demand: completion asks which models are cached, and must not wait for torch."""
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME_OF[name]}"), name)
