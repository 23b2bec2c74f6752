"""What a job will do and need, from headers and shapes alone."""

from qtoolkit.planning.device import adapt_dtype, resolve_device, resolve_dtype
from qtoolkit.planning.fit import check_fits, check_machine
from qtoolkit.planning.layers import layers_to_quantize
from qtoolkit.planning.machines import PROFILES, find_profile
from qtoolkit.planning.phases import memory_to_use
from qtoolkit.planning.planner import PlannedJob, make_plan, plan_job, plan_with_advice
from qtoolkit.planning.recommend import recommend

__all__ = [
    "PROFILES",
    "PlannedJob",
    "adapt_dtype",
    "check_fits",
    "check_machine",
    "find_profile",
    "layers_to_quantize",
    "make_plan",
    "memory_to_use",
    "plan_job",
    "plan_with_advice",
    "recommend",
    "resolve_device",
    "resolve_dtype",
]
