"""Define the verb `find_models`."""

from qtoolkit.hub.search import find_models as search_models
from qtoolkit.measure.guard import explained
from qtoolkit.records import FoundModels
from qtoolkit.requests import FindModelsRequest, verb


@verb(FindModelsRequest)
@explained("searching", "free some, or raise that limit")
def find_models(request: FindModelsRequest) -> FoundModels:
    """Search for models that generate text: on this machine first, then on the Hub, the most downloaded first.

    The Hub is asked once, with size, architecture, licence, terms and formats in its answer, and is not waited for
    longer than some seconds. If it does not answer, what is on this machine is returned, and a note says why.

    Raises:
        ConfigError: a limit below 1, or a token that cannot be one.
    """
    return search_models(request.text, limit=request.limit, hub=request.hub, token=request.token)
