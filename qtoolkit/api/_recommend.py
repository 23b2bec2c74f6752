"""The verb `recommend`."""

from qtoolkit.jobs.forecasting import run_recommendation
from qtoolkit.records import Recommendation
from qtoolkit.requests import RecommendRequest, verb


@verb(RecommendRequest)
def recommend(request: RecommendRequest) -> Recommendation:
    """Return which model to take with which method for an amount of memory; no weight is read or downloaded.

    Raises:
        QToolkitError: as `plan`.
    """
    return run_recommendation(request)
