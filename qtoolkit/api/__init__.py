"""Define the public verbs, one file each: signature, docstring, and the call of the job that does the work."""

from qtoolkit.api._compare import compare
from qtoolkit.api._convert import convert
from qtoolkit.api._doctor import doctor
from qtoolkit.api._evaluate import evaluate
from qtoolkit.api._find_models import find_models
from qtoolkit.api._frontier import frontier
from qtoolkit.api._load import load
from qtoolkit.api._measure_memory import measure_memory
from qtoolkit.api._merge import merge
from qtoolkit.api._plan import plan
from qtoolkit.api._publish import publish
from qtoolkit.api._quantize import quantize
from qtoolkit.api._recommend import recommend
from qtoolkit.api._repair import repair
from qtoolkit.api._run_tasks import run_tasks
from qtoolkit.api._verify import verify
from qtoolkit.measure.peak import measure_peak

__all__ = [
    "compare",
    "convert",
    "doctor",
    "evaluate",
    "find_models",
    "frontier",
    "load",
    "measure_memory",
    "measure_peak",
    "merge",
    "plan",
    "publish",
    "quantize",
    "recommend",
    "repair",
    "run_tasks",
    "verify",
]
