"""Quantize a language model in a notebook, measure what quality and memory that costs, and publish the result."""

import importlib
from typing import TYPE_CHECKING, Any

from qtoolkit.errors import JobCancelled, QToolkitError, importing
from qtoolkit.optional import when_imported
from qtoolkit.version import __version__ as __version__

if TYPE_CHECKING:
    from qtoolkit.api import (
        compare,
        convert,
        doctor,
        evaluate,
        find_models,
        frontier,
        load,
        measure_memory,
        measure_peak,
        merge,
        plan,
        publish,
        quantize,
        recommend,
        repair,
        run_tasks,
        verify,
    )
    from qtoolkit.formats import available_formats
    from qtoolkit.hub.cache import local_models
    from qtoolkit.jobs.sample_model import sample_model
    from qtoolkit.jobs.training_codes import train_codes
    from qtoolkit.methods import available_methods
    from qtoolkit.methods.affine_config import AbsMax, ZeroPoint
    from qtoolkit.methods.bitsandbytes import FP4, NF4, Int8
    from qtoolkit.methods.block_rounding import GGUF
    from qtoolkit.methods.eight_bits import FP8, W8A8
    from qtoolkit.methods.gptq import GPTQ
    from qtoolkit.notebook.panels import panel
    from qtoolkit.quantized import QuantizedModel
    from qtoolkit.tensor.divergence import divergence_loss

__all__ = [
    "FP4",
    "FP8",
    "GGUF",
    "GPTQ",
    "NF4",
    "W8A8",
    "AbsMax",
    "Int8",
    "JobCancelled",
    "QToolkitError",
    "QuantizedModel",
    "ZeroPoint",
    "available_formats",
    "available_methods",
    "compare",
    "convert",
    "divergence_loss",
    "doctor",
    "evaluate",
    "find_models",
    "frontier",
    "load",
    "local_models",
    "measure_memory",
    "measure_peak",
    "merge",
    "panel",
    "plan",
    "publish",
    "quantize",
    "recommend",
    "repair",
    "run_tasks",
    "sample_model",
    "train_codes",
    "verify",
]

# Public names that are no verb of the package `api` -> the module that defines them.
_HOME_OF = {
    "QuantizedModel": "quantized",
    "available_formats": "formats",
    "available_methods": "methods",
    "divergence_loss": "tensor.divergence",
    "local_models": "hub.cache",
    "panel": "notebook.panels",
    "sample_model": "jobs.sample_model",
    "train_codes": "jobs.training_codes",
}


def __getattr__(name: str) -> Any:
    """Import a verb or a config when it is first used; the config of a method is found by the name of its class."""
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
    """Register `%quantize` and the other magics in a shell, for `%load_ext qtoolkit`."""
    importlib.import_module("qtoolkit.notebook").register(shell)


def unload_ipython_extension(shell: Any) -> None:
    """Remove the magics from a shell, for `%unload_ext qtoolkit`."""
    importlib.import_module("qtoolkit.notebook").unregister(shell)


# Lets transformers read our checkpoints, whichever of the two is imported first; transformers is not imported by this.
when_imported("transformers.modeling_utils", lambda: importlib.import_module("qtoolkit.methods").register())
# Lets peft train adapters on our layers, whichever of the two is imported first; peft is not imported by this.
when_imported("peft", lambda: importlib.import_module("qtoolkit.adapters.lora_layers").register())
