"""A verified model to the Hub: large files first, one after the other, then one commit that holds them all."""

import hashlib
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import TypeVar

from huggingface_hub import HfApi, ModelInfo, constants
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import get_session, hf_raise_for_status  # type: ignore[attr-defined]

from qtoolkit.checkpoints.filenames import INDEX_FILE
from qtoolkit.errors import ConfigError, HubUnreachableError, SourceError, oneline
from qtoolkit.hub.hub_errors import HubUpload, translated
from qtoolkit.hub.mirror import without_bars
from qtoolkit.hub.transfer import transfer
from qtoolkit.publishing.addition import Addition, Content
from qtoolkit.publishing.token import Writer
from qtoolkit.records import OnProgress, ProgressEvent

# Seconds before a step is tried again; huggingface_hub itself has tried most requests several times by then.
PAUSES = (2.0, 8.0, 30.0)
# A Hub that names a longer time is not waited for: its limits are over after five minutes.
_LONGEST_PAUSE = 300.0
_TICK = 1.0
CARD = "README.md"
_WEIGHTS = (".safetensors", ".bin", ".gguf")
_Result = TypeVar("_Result")


class Repository:
    """A model repository that is written to.

    Args:
        repo_id: "org/name".
        writer: who writes.
        revision: the branch.
        on_progress: told about ten times a second how much was sent; what it raises stops the push.
    """

    def __init__(self, repo_id: str, writer: Writer, revision: str, on_progress: OnProgress) -> None:
        self.repo_id, self.revision, self.account = repo_id, revision, writer.account
        self._model = HubUpload(repo_id, revision, writer.token)
        self._api = HfApi(token=writer.token)
        self._on_progress = on_progress
        self._additions: list[Addition] = []
        self._current: Addition | None = None
        self.parent: str | None = None
        self.present: dict[str, str] = {}
        self.private: bool | None = None

    def open(self, *, private: bool, create_pr: bool) -> None:
        """Make the repository and the branch where they are missing, and see what is there.

        Raises:
            ConfigError: it is public and should be private.
            SourceError: the Hub does not answer, or refuses.
        """
        if not create_pr:
            self._ask(lambda: self._api.create_repo(self.repo_id, private=private, exist_ok=True))
        if not create_pr and self.revision != "main":
            self._ask(lambda: self._api.create_branch(self.repo_id, branch=self.revision, exist_ok=True))
        info = self._ask(lambda: self._info(self.revision))
        self.parent, self.private = info.sha, None if create_pr else bool(info.private)
        self.present = _stored(info)
        if private and not create_pr and not info.private:
            raise ConfigError(
                f"{self.repo_id} is public already: give private=False to publish there, or name another repository"
            )

    def unchanged(self, files: Mapping[str, Content], hashes: Mapping[str, str]) -> tuple[str, ...]:
        """The files that are there with the same content.

        Args:
            files: name -> content.
            hashes: name -> SHA-256, where it is known.
        """
        return tuple(name for name in files if self.present.get(name) in _hashes(files[name], hashes.get(name)))

    def refuse_leftovers(self, files: Mapping[str, Content]) -> None:
        """Refuse a repository with weights that would stand beside the new ones, and be read with them or instead.

        Raises:
            ConfigError: there are such.
        """
        left = [name for name in self.present if name.lower().endswith(_WEIGHTS) or name == INDEX_FILE]
        odd = sorted(name for name in left if name not in files and "/" not in name)
        if odd:
            raise ConfigError(
                f"{self.repo_id} holds {odd[0]}, which this model has not: name another repository or revision=, or "
                "remove it there"
            )

    def push(self, files: Mapping[str, Content], message: str, *, create_pr: bool) -> tuple[str, str | None]:
        """Send files, each as it can, and then the one commit that makes them the repository's.

        What was sent before a connection broke for good is not sent again by the next call: the Hub keeps it. So does a
        commit whose answer was lost stay the only one.

        Returns:
            The commit, and the pull request's address.

        Raises:
            ConfigError: the Hub does not accept what the card states.
            SourceError: the Hub does not answer, or refuses, or somebody committed meanwhile.
        """
        if CARD in files:
            self._ask(partial(self._check_card, files[CARD]))
        self._additions = [Addition(name, content) for name, content in files.items()]
        for addition in self._additions:
            self._current = addition
            self._again(partial(self._send, addition, create_pr=create_pr))
            addition.num_bytes_read = addition.upload_info.size
            self._report()
        return self._ask(partial(self._commit, files, message, create_pr=create_pr))

    def _report(self) -> None:
        if self._current is not None:
            done = sum(addition.num_bytes_read for addition in self._additions)
            total = sum(addition.upload_info.size for addition in self._additions)
            self._on_progress(ProgressEvent("push", done, total, "bytes", self._current.path_in_repo))

    def _check_card(self, card: Content) -> None:
        """Refuse a card before the upload that the Hub would refuse after it."""
        text = (card if isinstance(card, bytes) else card.read_bytes()).decode()
        address = f"{constants.ENDPOINT}/api/validate-yaml"
        response = get_session().post(address, json={"content": text, "repoType": "model"})
        if response.status_code == 400:
            told = "; ".join(str(each.get("message")) for each in response.json()["errors"])
            raise ConfigError(f"the Hub does not accept the card {CARD} ({oneline(ValueError(told))}): correct it")
        hf_raise_for_status(response)

    def _send(self, addition: Addition, *, create_pr: bool) -> None:
        def work(stopped: threading.Event) -> None:
            addition.stopped = stopped
            self._api.preupload_lfs_files(self.repo_id, [addition], revision=self.revision, create_pr=create_pr)

        with without_bars():
            sent = transfer(work, self._report)
        self._once(sent.result)

    def _commit(self, files: Mapping[str, Content], message: str, *, create_pr: bool) -> tuple[str, str | None]:
        """The commit of these files: an earlier try has made it where only its answer was lost."""
        hashes = {
            addition.path_in_repo: _hashes(files[addition.path_in_repo], addition.upload_info.sha256.hex())
            for addition in self._additions
        }
        find = self._find_pull_request if create_pr else self._find_commit
        if found := find(hashes):
            return found
        try:
            made = self._api.create_commit(
                self.repo_id,
                self._additions,
                commit_message=message,
                parent_commit=self.parent,
                revision=self.revision,
                create_pr=create_pr,
            )
        except HfHubHTTPError as error:
            if error.response.status_code == 409:
                raise HubUnreachableError(f"{self.repo_id} is being committed to (409): call again later") from error
            if error.response.status_code != 412:
                raise
            # The Hub may have worked on after it broke off its answer.
            if found := find(hashes):
                return found
            raise SourceError(f"somebody committed to {self.repo_id} meanwhile: look at it, then call again") from error
        return made.oid, made.pr_url

    def _find_commit(self, hashes: Mapping[str, set[str]], revision: str | None = None) -> tuple[str, None] | None:
        """The commit at the head of a branch, where it holds all files."""
        info = self._info(revision or self.revision)
        present = _stored(info)
        whole = all(present.get(name) in known for name, known in hashes.items())
        return (str(info.sha), None) if whole else None

    def _find_pull_request(self, hashes: Mapping[str, set[str]]) -> tuple[str, str] | None:
        """The open pull request of this account that brings all files."""
        mine = self._api.get_repo_discussions(
            self.repo_id, author=self.account, discussion_type="pull_request", discussion_status="open"
        )
        for request in mine:
            if found := self._find_commit(hashes, request.git_reference):
                return found[0], request.url
        return None

    def _info(self, revision: str) -> ModelInfo:
        return self._api.model_info(self.repo_id, revision=revision, files_metadata=True)

    def _ask(self, step: Callable[[], _Result]) -> _Result:
        return self._again(lambda: self._once(step))

    def _again(self, step: Callable[[], _Result]) -> _Result:
        """Do a step, and again after a pause where the Hub does not answer."""
        for pause in PAUSES:
            try:
                return step()
            except HubUnreachableError as error:
                self._wait(max(pause, _asked_pause(error)))
        return step()

    def _wait(self, seconds: float) -> None:
        """Wait, and tell meanwhile where it stands, so that it can be stopped."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            threading.Event().wait(min(left, _TICK))
            self._report()

    def _once(self, step: Callable[[], _Result]) -> _Result:
        with translated(self._model), without_bars():
            return step()


def _asked_pause(error: HubUnreachableError) -> float:
    """Seconds after which the Hub wants to be asked again; 0 where it does not say."""
    asked = (
        error.__cause__.response.headers.get("Retry-After", "") if isinstance(error.__cause__, HfHubHTTPError) else ""
    )
    return min(float(asked), _LONGEST_PAUSE) if asked.isdecimal() else 0.0


def _stored(info: ModelInfo) -> dict[str, str]:
    """The files of a commit, by the hash that the Hub goes by: SHA-256 of a large file, git's of a small one."""
    return {file.rfilename: (file.lfs.sha256 if file.lfs else file.blob_id) or "" for file in info.siblings or ()}


def _hashes(content: Content, sha256: str | None) -> set[str]:
    """What the Hub may call a content: SHA-256 of a large file, git's hash of a small one."""
    found = {sha256} if sha256 else set()
    # Files of this size are never kept in git itself.
    if isinstance(content, bytes) or content.stat().st_size < 20_000_000:
        data = content if isinstance(content, bytes) else content.read_bytes()
        found.add(hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest())
        found.add(hashlib.sha256(data).hexdigest())
    return found
