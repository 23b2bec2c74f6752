"""Define the verb `recommend`."""

from qtoolkit.jobs.forecasting import run_recommendation
from qtoolkit.records import Recommendation
from qtoolkit.requests import RecommendRequest, verb


@verb(RecommendRequest)
def recommend(request: RecommendRequest) -> Recommendation:
    """Return which model to take with which method for an amount of memory; no weight is read or downloaded.

    Of a list, a larger model that is quantized is compared with a smaller one as it is. `memory` limits what using the
    model may take.

    Raises:
        QToolkitError: as `plan`.
    """
    return run_recommendation(request)
