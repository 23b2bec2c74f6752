"""Make a language model small in a notebook, know what it cost, and share it."""

import importlib
from typing import TYPE_CHECKING, Any

from qtoolkit.errors import JobCancelled, QToolkitError, importing
from qtoolkit.optional import when_imported
from qtoolkit.version import __version__ as __version__

if TYPE_CHECKING:
    from qtoolkit.api import (
        compare,
        doctor,
        evaluate,
        find_models,
        load,
        measure_memory,
        measure_peak,
        plan,
        publish,
        quantize,
        recommend,
        run_tasks,
        verify,
    )
    from qtoolkit.formats import available_formats
    from qtoolkit.hub.cache import local_models
    from qtoolkit.methods import available_methods
    from qtoolkit.methods.affine import AbsMax, ZeroPoint
    from qtoolkit.methods.bitsandbytes import FP4, NF4, Int8
    from qtoolkit.methods.gptq import GPTQ
    from qtoolkit.notebook.panels import panel
    from qtoolkit.quantized import QuantizedModel

__all__ = [
    "FP4",
    "GPTQ",
    "NF4",
    "AbsMax",
    "Int8",
    "JobCancelled",
    "QToolkitError",
    "QuantizedModel",
    "ZeroPoint",
    "available_formats",
    "available_methods",
    "compare",
    "doctor",
    "evaluate",
    "find_models",
    "load",
    "local_models",
    "measure_memory",
    "measure_peak",
    "panel",
    "plan",
    "publish",
    "quantize",
    "recommend",
    "run_tasks",
    "verify",
]

# Where public names stand that are no verb of the package `api`.
_HOME_OF = {
    "QuantizedModel": "quantized",
    "available_formats": "formats",
    "available_methods": "methods",
    "local_models": "hub.cache",
    "panel": "notebook.panels",
}


def __getattr__(name: str) -> Any:
    """Verbs and configs, each imported when it is first asked for; a method's config is found by its file's name."""
    with importing(f"qt.{name}"):
        if name in _HOME_OF or (name in __all__ and name.islower()):
            return getattr(importlib.import_module(f"qtoolkit.{_HOME_OF.get(name, 'api')}"), name)
        config = None if name.startswith("_") else importlib.import_module("qtoolkit.methods").find_config(name)
    if config is None:
        raise AttributeError(f"module 'qtoolkit' has no attribute {name!r}")
    return config


def __dir__() -> list[str]:
    return [*globals(), *__all__]


def load_ipython_extension(shell: Any) -> None:
    """`%load_ext qtoolkit`: `%quantize` and its family, which `%lsmagic` lists."""
    importlib.import_module("qtoolkit.notebook").register(shell)


def unload_ipython_extension(shell: Any) -> None:
    """`%unload_ext qtoolkit`: the magics are gone."""
    importlib.import_module("qtoolkit.notebook").unregister(shell)


# So that transformers reads our checkpoints once qtoolkit is imported, before or after it; costs nothing until then.
when_imported("transformers.modeling_utils", lambda: importlib.import_module("qtoolkit.methods").register())
