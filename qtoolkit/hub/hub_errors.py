"""Translate what the Hub and the network answer into errors of ours: one line, without tokens."""

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import ClassVar

from huggingface_hub import constants, get_token
from huggingface_hub.errors import (  # type: ignore[attr-defined]  # HTTPError is httpx's or httpx2's, by its version
    DisabledRepoError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from qtoolkit.checkpoints.hub_names import without_address
from qtoolkit.errors import (
    ConfigError,
    DiskFullError,
    GatedModelError,
    HubUnreachableError,
    ModelNotFoundError,
    OutputError,
    QToolkitError,
    SourceError,
    oneline,
)
from qtoolkit.tokens import concealed

# How the message of huggingface_hub begins when the Hub rejects a card's metadata.
_INVALID_CARD = "Invalid metadata in README.md."


@dataclass(frozen=True)
class HubModel:
    """Name a repository on the Hub, with the revision and token of a request.

    Attributes:
        repo_id: "org/name".
        revision: branch, tag or commit; None for the default branch.
        token: None for the one that huggingface_hub finds.
        kind: what messages call such a repository.
        again: advice for when the connection broke.
        transfer: what messages call the request that broke off, up to the repository's name.
        right: what a token must be allowed to do with the repository.
        path: the path of the page that a person opens, with the repository's name in braces.
    """

    kind: ClassVar[str] = "model"
    transfer: ClassVar[str] = "download of"
    right: ClassVar[str] = "read"
    again: ClassVar[str] = "run it again to go on after the last whole file"
    path: ClassVar[str] = "{repo_id}"

    repo_id: str
    revision: str | None = None
    token: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        for option in ("revision", "token"):
            value = getattr(self, option)
            if not isinstance(value, str | None):
                raise ConfigError(f"{option} must be a text, got {type(value).__name__}: give one, or leave it out")
        refuse_token(self.repo_id)
        refuse_token(self.revision or "")
        # The dataclass is frozen.
        object.__setattr__(self, "token", concealed(self.token))
        used = self.token if self.token is not None else concealed(get_token())
        # The HTTP library would quote the whole header in its error.
        if used is not None and not re.fullmatch(r"[!-~]+", used):
            raise ConfigError(
                "the Hub token is empty or holds blanks, line breaks or letters that no token has: copy it again from "
                "https://huggingface.co/settings/tokens"
            )

    @property
    def page(self) -> str:
        """Return the address that a person opens."""
        return f"{hub_address()}/{self.path.format(repo_id=self.repo_id)}"

    @property
    def has_token(self) -> bool:
        """Check whether a token is sent with the requests."""
        return (self.token or get_token()) is not None


@dataclass(frozen=True)
class HubUpload(HubModel):
    """Name a repository on the Hub to upload to."""

    again: ClassVar[str] = "call again to send what is missing"
    transfer: ClassVar[str] = "upload to"
    right: ClassVar[str] = "write to"


@dataclass(frozen=True)
class HubSearch(HubModel):
    """Describe a search of the Hub, which names no repository, for error messages."""

    again: ClassVar[str] = "search again"
    transfer: ClassVar[str] = "answer to"

    path: ClassVar[str] = "models"

    repo_id: str = "a search"


def refuse_token(name: str) -> None:
    """Refuse a token that was pasted where a name belongs, before it is sent over the network.

    Raises:
        ConfigError: a part of the name is a token.
    """
    if re.search(r"(?<![A-Za-z0-9])(hf|api_org)_[A-Za-z0-9]{30,}", name):
        raise ConfigError(
            "a Hub token stands where a name belongs, org/name for example; whoever sees this notebook may use the "
            f"token: make a new one at {hub_address()}/settings/tokens"
        )


def hub_address() -> str:
    """Return the Hub's address, without a password or a key that HF_ENDPOINT may hold."""
    return re.sub(r"//[^/]*@", "//", re.sub(r"[?#].*", "", constants.ENDPOINT))


@contextmanager
def translated(model: HubModel) -> Iterator[None]:
    """Turn what huggingface_hub raises in a `with` block into an error of ours.

    The original one is its `__context__`, and not shown with it: that is some hundred lines of the HTTP library.

    Raises:
        SourceError: the Hub does not hand the model out, or does not answer.
        ConfigError: the Hub refuses a card's metadata.
        OutputError: the local cache cannot be written.
    """
    try:
        yield
    except QToolkitError:
        # Some of ours are ValueErrors too.
        raise
    except (HTTPError, OSError, ValueError, TypeError, LookupError, AttributeError, RuntimeError) as error:
        raise _translate(error, model) from None


def _translate(error: BaseException, model: HubModel) -> QToolkitError:
    """Return our error for one of huggingface_hub, httpx or hf_xet."""
    if isinstance(error, LocalEntryNotFoundError) and error.__cause__ is not None:
        # huggingface_hub looked into its cache after the Hub had refused: why it refused is what helps.
        return _translate(error.__cause__, model)
    if isinstance(error, HfHubHTTPError):
        return _forbidden(error, model) or _not_found(error, model) or _failed(error, model)
    if isinstance(error, HFValidationError):
        meant = without_address(model.repo_id)
        example = "org/name or org/name@revision" if meant == model.repo_id else meant
        return ModelNotFoundError(f"{model.repo_id!r} is no Hub id: write it as on its page, {example}")
    if isinstance(error, OfflineModeIsEnabled):
        return HubUnreachableError("HF_HUB_OFFLINE is set: unset it and restart Python to ask the Hub")
    if isinstance(error, HTTPError):
        return HubUnreachableError(
            f"{hub_address()} does not answer ({_detail(error)}): check the network, the proxy and HF_ENDPOINT, "
            f"then {model.again}"
        )
    return _disk_error(error) or _unexpected(error) or _broken(error, model)


def _detail(error: BaseException) -> str:
    """Return an error's own message, without the signature in a storage address."""
    return re.sub(r"\?\S*", "", oneline(error))


def _bad_token() -> QToolkitError:
    return SourceError(
        "the Hub does not accept the token (401): it is mistyped or expired; log in again with `hf auth login`, "
        f"or make a new one at {hub_address()}/settings/tokens"
    )


def _forbidden(error: HfHubHTTPError, model: HubModel) -> QToolkitError | None:
    """Return our error for a gated model or a token that the Hub does not know; None for any other reason."""
    if isinstance(error, GatedRepoError) and model.has_token:
        return GatedModelError(
            f"{model.repo_id} is gated and your token has no access to it: accept its licence at {model.page} with the "
            "account of this token (a fine-grained token also needs the permission to read gated repositories)"
        )
    if isinstance(error, GatedRepoError):
        return GatedModelError(
            f"{model.repo_id} is gated: accept its licence at {model.page}, then log in with `hf auth login` or give "
            "token="
        )
    if error.response.status_code == 401 and model.has_token:
        # huggingface_hub takes it for a missing repository; with a good token the Hub answers 404 then.
        return _bad_token()
    return None


def _not_found(error: HfHubHTTPError, model: HubModel) -> QToolkitError | None:
    """Return our error for a repository or revision that does not exist, is hidden or disabled; None otherwise."""
    if isinstance(error, RevisionNotFoundError):
        return ModelNotFoundError(
            f"{model.repo_id} has no revision {model.revision!r}: name a branch, tag or commit, see "
            f"{model.page}/commits"
        )
    if isinstance(error, DisabledRepoError):
        return SourceError(f"{model.repo_id} was disabled on the Hub and cannot be downloaded: see {model.page}")
    if not isinstance(error, RepositoryNotFoundError) and error.response.status_code != 401:
        return None
    if isinstance(model, HubSearch):
        return SourceError(f"{hub_address()} wants a token for a search: log in with `hf auth login`, or give token=")
    way = "a token that has access to it" if model.has_token else "a token: `hf auth login`, or token="
    return ModelNotFoundError(
        f"no {model.kind} {model.repo_id!r} on {hub_address()}: check the name; a private one needs {way}"
    )


def _failed(error: HfHubHTTPError, model: HubModel) -> QToolkitError:
    """Return our error for any other answer of the Hub that is no success, by its HTTP status."""
    status = error.response.status_code
    if status == 403:
        return SourceError(
            f"the Hub refuses {model.repo_id} (403): give a token that may {model.right} it, see "
            f"{hub_address()}/settings/tokens{_quoted(error, model)}"
        )
    if status == 429:
        return HubUnreachableError(
            "the Hub gets too many requests from here (429): wait some minutes, or log in with `hf auth login` for more"
        )
    if status >= 500 or status == 408:
        return HubUnreachableError(f"{hub_address()} is down or overloaded ({status}): run it again later")
    return SourceError(f"the Hub answers {status} for {model.repo_id}: see {model.page}{_quoted(error, model)}")


def _quoted(error: HfHubHTTPError, model: HubModel) -> str:
    """Return the Hub's own message in parentheses, to be added to ours; empty without one."""
    message = (error.server_message or "").strip().replace(model.token or get_token() or " ", "…")
    return f" ({message.splitlines()[0][:200].rstrip(' .:')})" if message else ""


def _unexpected(error: BaseException) -> QToolkitError | None:
    """Return our error for an answer that huggingface_hub cannot read, or for a card that the Hub rejects."""
    if isinstance(error, OSError) or not isinstance(error, ValueError | TypeError | LookupError | AttributeError):
        return None
    if str(error).startswith(_INVALID_CARD):
        reason = " ".join(str(error).removeprefix(_INVALID_CARD).split())
        return ConfigError(f"the Hub refuses the metadata of the card README.md ({reason}): correct it")
    return HubUnreachableError(
        f"{hub_address()} answers, but not as the Hub does ({_detail(error)}): check the network's login page, "
        "the proxy and HF_ENDPOINT"
    )


def _disk_error(error: BaseException) -> QToolkitError | None:
    """Return our error for a full disk or a cache that cannot be written; None for any other reason."""
    if not isinstance(error, OSError):
        return None
    code = error.errno
    cache = constants.HF_HUB_CACHE
    if code is None and (number := re.search(r"\(os error (\d+)\)", str(error))):
        # hf_xet gives the number only in its message.
        code = int(number[1])
        cache = constants.HF_XET_CACHE
    if code == errno.ENOSPC:
        return DiskFullError(f"the disk of {cache} is full: free some, or set HF_HOME to a folder on a larger one")
    if code in {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST}:
        return OutputError(
            f"the Hub cache {cache} cannot be written ({os.strerror(code)}): set HF_HOME to another folder"
        )
    return None


def _broken(error: BaseException, model: HubModel) -> QToolkitError:
    """Return our error for a transfer that ended early."""
    # huggingface_hub says of an upload only which file it was.
    cause = error.__cause__ if isinstance(error, RuntimeError) and error.__cause__ else error
    if model.has_token and "HTTP status client error (401" in str(cause):
        # hf_xet gives the status only in its message.
        return _bad_token()
    return HubUnreachableError(f"the {model.transfer} {model.repo_id} broke off ({_detail(cause)}): {model.again}")
