"""The token that writes: found once, asked what it may do before anything is done, and shown nowhere."""

from typing import Any, NamedTuple

from huggingface_hub import HfApi, get_token

from qtoolkit.errors import GatedModelError
from qtoolkit.hub.hub_errors import HubUpload, hub_address, translated
from qtoolkit.tokens import concealed

_HOW = "`hf auth login`, huggingface_hub.notebook_login(), the secret HF_TOKEN on Colab, or token="


class Writer(NamedTuple):
    """Who writes.

    Attributes:
        token: never printed: a tuple's text would show it, so this has none.
        account: the account's name on the Hub.
    """

    token: str
    account: str

    def __repr__(self) -> str:
        return f"Writer(account={self.account!r})"


def find_writer(repo_id: str, token: str | None) -> Writer:
    """The token that is given, or else the one that huggingface_hub finds, once the Hub said that it may write.

    huggingface_hub looks into the environment, Colab's secrets and its own file. Colab hands its secrets to the main
    thread alone, so this is called there.

    Args:
        repo_id: where is written to.
        token: None to find one.

    Raises:
        GatedModelError: there is no token, or one that may only read.
        SourceError: the Hub does not know it, or does not answer.
    """
    found = concealed(token if token is not None else get_token())
    if found is None:
        raise GatedModelError(f"writing to {repo_id} needs a token, and none is there: {_HOW}")
    # Refuses what cannot be a token before it goes into a header.
    model = HubUpload(repo_id, token=found)
    with translated(model):
        said: dict[str, Any] = HfApi(token=found).whoami()
    if not _may_write((said.get("auth") or {}).get("accessToken") or {}):
        raise GatedModelError(
            f"the token of {said.get('name')} may only read: make one that may write to {repo_id} at "
            f"{hub_address()}/settings/tokens"
        )
    return Writer(found, str(said.get("name")))


def read_token() -> None:
    """Let huggingface_hub look for a token now, in the main thread.

    Colab hands its secrets to that thread alone; huggingface_hub asks once, and keeps the answer for all others.
    """
    get_token()


def _may_write(token: dict[str, Any]) -> bool:
    """Whether a token may write somewhere, by what the Hub says of it; where exactly, the Hub says when it is tried."""
    if token.get("role") != "fineGrained":
        return token.get("role") != "read"
    scopes = (token.get("fineGrained") or {}).get("scoped") or ()
    return any("repo.write" in (scope.get("permissions") or ()) for scope in scopes)
