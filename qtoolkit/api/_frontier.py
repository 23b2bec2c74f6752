"""Define the verb `frontier`."""

from qtoolkit.jobs.measuring_frontier import run_frontier
from qtoolkit.records import Frontier
from qtoolkit.requests import FrontierRequest, verb


@verb(FrontierRequest)
def frontier(request: FrontierRequest) -> Frontier:
    """Try recipes, measure each on one text, and tell which are worth it: less loss than any that is as small.

    A recipe is planned first, from headers alone. With `memory`, all are measured whose result can be used within it;
    with `sizes`, for each size the four whose weight files come nearest, and differ by a quarter at most. The others
    are listed with the reason. The size of a result is that of its weight files.

    Recipes are measured as `compare` does it: each result is written as soon as it is there, the same call goes on
    with what it finds, and one that fails gets a row with its error. What `compare` measured counts here too.

    Raises:
        QToolkitError: before work starts where that can be; as `compare`, or if nothing is left to measure.
    """
    return run_frontier(request)
