"""Define the options of `qtoolkit.find_models`."""

from dataclasses import KW_ONLY, dataclass

from qtoolkit.requests.model import HubToken
from qtoolkit.requests.option_field import option


@dataclass(frozen=True)
class FindModelsRequest(HubToken):
    """Hold what is searched for, and where."""

    text: str = option("", help="part of a name, in any case, or a path; empty for all", metavar="TEXT")
    _: KW_ONLY
    limit: int = option(20, help="models of the Hub; those on this machine come all", unit="models", least=1)
    hub: bool = option(True, help="ask the Hub", empty="ask no network")
