"""The verbs. Each wires rooms together in a few lines; what they do is in the rooms."""

from qtoolkit.api._quantize import quantize
from qtoolkit.api.making import find_models, load, plan, recommend
from qtoolkit.api.measuring import compare, doctor, evaluate, measure_memory, run_tasks
from qtoolkit.api.sharing import publish, verify
from qtoolkit.measure import measure_peak

__all__ = [
    "compare",
    "doctor",
    "evaluate",
    "find_models",
    "load",
    "measure_memory",
    "measure_peak",
    "plan",
    "publish",
    "quantize",
    "recommend",
    "run_tasks",
    "verify",
]
