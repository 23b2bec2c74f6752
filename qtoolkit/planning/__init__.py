"""What a job will do and need, from headers and shapes alone."""

from qtoolkit.planning.device import adapt_dtype, resolve_device, resolve_dtype
from qtoolkit.planning.planner import make_plan
from qtoolkit.planning.preflight import check_fits

__all__ = ["adapt_dtype", "check_fits", "make_plan", "resolve_device", "resolve_dtype"]
