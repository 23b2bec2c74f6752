"""Find the Hub token to write with, and ask the Hub what it may do before anything is done; it is never shown."""

from typing import Any, NamedTuple

from huggingface_hub import HfApi, get_token

from qtoolkit.errors import GatedModelError
from qtoolkit.hub.hub_errors import HubUpload, hub_address, translated
from qtoolkit.tokens import concealed

_HOW = "`hf auth login`, huggingface_hub.notebook_login(), the secret HF_TOKEN on Colab, or token="


class Writer(NamedTuple):
    """A Hub account with the token that writes in its name.

    Attributes:
        token: never printed; the text of this record leaves it out.
        account: the account's name on the Hub.
    """

    token: str
    account: str

    def __repr__(self) -> str:
        return f"Writer(account={self.account!r})"


def find_writer(repo_id: str, token: str | None) -> Writer:
    """Return the given token, or else the one that huggingface_hub finds, once the Hub said that it may write.

    huggingface_hub looks into the environment, Colab's secrets and its own file. Colab hands its secrets to the main
    thread alone, so this is called there.

    Args:
        repo_id: the repository that is written to.
        token: None to find one.

    Raises:
        GatedModelError: there is no token, or one that may only read.
        SourceError: the Hub does not know it, or does not answer.
    """
    used = concealed(token if token is not None else get_token())
    if used is None:
        raise GatedModelError(f"writing to {repo_id} needs a token, and none is there: {_HOW}")
    # Refuses what cannot be a token, before it is sent in a header.
    model = HubUpload(repo_id, token=used)
    with translated(model):
        account: dict[str, Any] = HfApi(token=used).whoami()
    if not _may_write((account.get("auth") or {}).get("accessToken") or {}):
        raise GatedModelError(
            f"the token of {account.get('name')} may only read: make one that may write to {repo_id} at "
            f"{hub_address()}/settings/tokens"
        )
    return Writer(used, str(account.get("name")))


def read_token() -> None:
    """Let huggingface_hub look for a token now, in the main thread.

    Colab hands its secrets to that thread alone; huggingface_hub asks once, and keeps the answer for all others.
    """
    get_token()


def _may_write(token: dict[str, Any]) -> bool:
    """Check whether a token may write to some repository; to which, the Hub says when it is tried.

    Args:
        token: what the Hub says of it.
    """
    if token.get("role") != "fineGrained":
        return token.get("role") != "read"
    scopes = (token.get("fineGrained") or {}).get("scoped") or ()
    return any("repo.write" in (scope.get("permissions") or ()) for scope in scopes)
