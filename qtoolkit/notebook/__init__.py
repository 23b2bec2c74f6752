"""Offer qtoolkit in a notebook: magics, completion, progress and panels, which call the API and hold no logic."""

from typing import Any

from qtoolkit.notebook import completion
from qtoolkit.notebook.magics import QuantizeMagics

__all__ = ["QuantizeMagics", "register", "unregister"]


def register(ip: Any) -> None:
    """Register the magics and their completion with an IPython shell; a second call changes nothing."""
    if not _registered(ip):
        ip.register_magics(QuantizeMagics)
        completion.install(ip)


def unregister(ip: Any) -> None:
    """Remove what `register` added, so that `%reload_ext` starts anew and keeps no old settings."""
    for magics in _registered(ip):
        for named in ip.magics_manager.magics.values():
            for name in [name for name, magic in named.items() if getattr(magic, "__self__", None) is magics]:
                del named[name]
        ip.magics_manager.registry.pop(type(magics).__name__, None)
        ip.configurables.remove(magics)
    completion.remove(ip)


def _registered(ip: Any) -> list[QuantizeMagics]:
    return [magics for magics in ip.configurables if isinstance(magics, QuantizeMagics)]
