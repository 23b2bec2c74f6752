"""A checkpoint as files: safetensors, a folder, a `.gguf` header, and what their configs may say."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qtoolkit.checkpoints.safetensors import StoredTensor, read_tensors

_HOME_OF = {
    "StoredTensor": "safetensors",
    "read_tensors": "safetensors",
}
__all__ = ["StoredTensor", "read_tensors"]


def __getattr__(name: str) -> Any:
    """Give each name on demand: completion asks which models are cached, and must not wait for torch."""
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME_OF[name]}"), name)
