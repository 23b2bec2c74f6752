"""Define the verb `plan`."""

from qtoolkit.jobs.forecasting import run_plan
from qtoolkit.records import Plan
from qtoolkit.requests import PlanRequest, verb


@verb(PlanRequest)
def plan(request: PlanRequest) -> Plan:
    """Return what `quantize` would do to each layer, what each phase needs, and whether it fits; no weight is read.

    Of a Hub model, config and headers are downloaded, some MB at most, and no weight. A config with a target is the
    exception: the sensitivity of layers is measured on weights that are on this machine, once, and is cached for
    `quantize`. A machine is the name of a profile or a `Machine`; the speed of this one is measured once (two seconds).

    Raises:
        QToolkitError: what `quantize` would refuse before work starts, except too little memory or disk.
    """
    return run_plan(request)
