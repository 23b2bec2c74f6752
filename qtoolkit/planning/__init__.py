"""What a job will do and need, from headers and shapes alone."""

from qtoolkit.planning.planner import make_plan
from qtoolkit.planning.preflight import check_fits

__all__ = ["check_fits", "make_plan"]
