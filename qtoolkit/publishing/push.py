"""Send a verified model to the Hub: large files first, one after the other, then one commit that holds them all."""

import hashlib
import io
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import BinaryIO, TypeVar, cast

from huggingface_hub import CommitOperationAdd, HfApi, ModelInfo, constants
from huggingface_hub.errors import HfHubHTTPError, RevisionNotFoundError
from huggingface_hub.utils import get_session, hf_raise_for_status  # type: ignore[attr-defined]

from qtoolkit.checkpoints.filenames import INDEX_FILE
from qtoolkit.errors import ConfigError, HubUnreachableError, SourceError, oneline
from qtoolkit.hub.hub_errors import HubUpload, translated
from qtoolkit.hub.mirror import without_bars
from qtoolkit.hub.transfer import StoppedError, transfer
from qtoolkit.publishing.token import Writer
from qtoolkit.records import OnProgress, ProgressEvent

# Seconds before a step is tried again; huggingface_hub itself has tried most requests several times by then.
PAUSES = (2.0, 8.0, 30.0)
# The longest pause that the Hub may ask for: its rate limits end after five minutes.
_LONGEST_PAUSE = 300.0
_TICK = 1.0
CARD = "README.md"
_WEIGHTS = (".safetensors", ".bin", ".gguf")
_Result = TypeVar("_Result")
Content = Path | bytes


class Addition(CommitOperationAdd):
    """A file of a commit that counts what is read of it to be sent.

    hf_xet reads a file by itself, and huggingface_hub hands on no progress of it: the count stays 0 then.

    Attributes:
        num_bytes_read: how far it was read; what is read again after a lost connection does not count twice.
        stopped: set when reading should break off.
    """

    num_bytes_read = 0
    stopped = threading.Event()

    @contextmanager
    def as_file(self, with_tqdm: bool = False) -> Iterator[BinaryIO]:
        """Open the content; `with_tqdm` is set where it is read to be sent, and counted then."""
        if with_tqdm and isinstance(self.path_or_fileobj, str):
            with _CountedFile(self.path_or_fileobj, self) as file:
                yield cast("BinaryIO", file)
        else:
            with super().as_file() as content:
                yield content


class _CountedFile(io.FileIO):
    """A file that notes in its addition how far it was read."""

    def __init__(self, path: str, addition: Addition) -> None:
        super().__init__(path)
        self.addition = addition

    def read(self, size: int | None = -1) -> bytes:
        """Read some bytes, and count them.

        Raises:
            StoppedError: the upload was stopped.
        """
        if self.addition.stopped.is_set():
            raise StoppedError
        data = super().read(-1 if size is None else size)
        self.addition.num_bytes_read = max(self.addition.num_bytes_read, self.tell())
        return data or b""


class Repository:
    """A model repository that is written to.

    Args:
        repo_id: "org/name".
        writer: who writes.
        revision: the branch.
        on_progress: called about ten times a second with how much was sent; what it raises stops the push.
    """

    def __init__(self, repo_id: str, writer: Writer, revision: str, on_progress: OnProgress) -> None:
        self.repo_id = repo_id
        self.revision = revision
        self.account = writer.account
        self._model = HubUpload(repo_id, revision, writer.token)
        self._api = HfApi(token=writer.token)
        self._on_progress = on_progress
        self._additions: list[Addition] = []
        self._current: Addition | None = None
        self.parent: str | None = None
        self.present: dict[str, str] = {}
        self.private: bool | None = None

    def open(self, *, private: bool, create_pr: bool) -> None:
        """Make the repository and the branch where they are missing, and list the files that they hold.

        Raises:
            ConfigError: it is public and should be private.
            SourceError: the Hub does not answer, or refuses.
        """
        if not create_pr:
            self._ask(lambda: self._api.create_repo(self.repo_id, private=private, exist_ok=True))
        if not create_pr and self.revision != "main":
            self._ask(self._make_branch)
        info = self._ask(lambda: self._info(self.revision))
        self.parent = info.sha
        self.private = None if create_pr else bool(info.private)
        self.present = _stored(info)
        if private and not create_pr and not info.private:
            raise ConfigError(
                f"{self.repo_id} is public already: give private=False to publish there, or name another repository"
            )

    def _make_branch(self) -> None:
        """Make the branch if there is none: from the first commit, so that it holds no files of another branch."""
        try:
            self._info(self.revision)
        except RevisionNotFoundError:
            first = self._api.list_repo_commits(self.repo_id)[-1].commit_id
            self._api.create_branch(self.repo_id, branch=self.revision, revision=first, exist_ok=True)

    def unchanged(self, files: Mapping[str, Content], hashes: Mapping[str, str]) -> tuple[str, ...]:
        """Return the names of files that the repository holds with the same content.

        Args:
            files: name -> content.
            hashes: name -> SHA-256, where it is known.
        """
        return tuple(name for name in files if self.present.get(name) in _hashes(files[name], hashes.get(name)))

    def gate(self) -> None:
        """Let a public repository hand out its files only to those whom its owner admits.

        One that is gated already is left alone. Whether the base admits everybody who accepts its terms is not known:
        its owner may choose that for the copy too.

        Raises:
            SourceError: the Hub refuses, or does not answer.
        """
        if not self._once(lambda: self._api.model_info(self.repo_id)).gated:
            self._once(lambda: self._api.update_repo_settings(self.repo_id, gated="manual"))

    def refuse_leftovers(self, files: Mapping[str, Content]) -> None:
        """Refuse a repository with weights that would stand beside the new ones, and be read with them or instead.

        Raises:
            ConfigError: there are such.
        """
        left = [name for name in self.present if name.lower().endswith(_WEIGHTS) or name == INDEX_FILE]
        odd = sorted(name for name in left if name not in files and "/" not in name)
        if odd:
            beside = ", give also= with its folder" if odd[0].lower().endswith(".gguf") else ""
            raise ConfigError(
                f"{self.repo_id} holds {odd[0]}, which this model has not: name another repository or "
                f"revision={beside}, or remove it there"
            )

    def push(self, files: Mapping[str, Content], message: str, *, create_pr: bool) -> tuple[str, str | None]:
        """Send files one by one, and then the one commit that makes them the repository's.

        What was sent before a connection broke for good is not sent again by the next call: the Hub keeps it. A commit
        whose answer was lost is found, and not made twice.

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
        """Tell `on_progress` how many bytes of all files were sent."""
        if self._current is not None:
            done = sum(addition.num_bytes_read for addition in self._additions)
            total = sum(addition.upload_info.size for addition in self._additions)
            self._on_progress(ProgressEvent("push", done, total, "bytes", self._current.path_in_repo))

    def _check_card(self, card: Content) -> None:
        """Refuse, before the upload, a card that the Hub would refuse after it."""
        text = (card if isinstance(card, bytes) else card.read_bytes()).decode()
        address = f"{constants.ENDPOINT}/api/validate-yaml"
        response = get_session().post(address, json={"content": text, "repoType": "model"})
        if response.status_code == 400:
            errors = "; ".join(str(each.get("message")) for each in response.json()["errors"])
            raise ConfigError(f"the Hub does not accept the card {CARD} ({oneline(ValueError(errors))}): correct it")
        hf_raise_for_status(response)

    def _send(self, addition: Addition, *, create_pr: bool) -> None:
        """Send one file in a thread of its own, and report meanwhile; git's small ones go with the commit."""

        def work(stopped: threading.Event) -> None:
            addition.stopped = stopped
            self._api.preupload_lfs_files(self.repo_id, [addition], revision=self.revision, create_pr=create_pr)

        with without_bars():
            sent = transfer(work, self._report)
        self._once(sent.result)

    def _commit(self, files: Mapping[str, Content], message: str, *, create_pr: bool) -> tuple[str, str | None]:
        """Make the commit of these files, or find it where an earlier try made it and only the answer was lost."""
        hashes = {
            addition.path_in_repo: _hashes(files[addition.path_in_repo], addition.upload_info.sha256.hex())
            for addition in self._additions
        }
        find = self._find_pull_request if create_pr else self._find_commit
        if existing := find(hashes):
            return existing
        try:
            commit = self._api.create_commit(
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
            # The Hub may have made the commit although its answer broke off.
            if existing := find(hashes):
                return existing
            raise SourceError(f"somebody committed to {self.repo_id} meanwhile: look at it, then call again") from error
        return commit.oid, commit.pr_url

    def _find_commit(self, hashes: Mapping[str, set[str]], revision: str | None = None) -> tuple[str, None] | None:
        """Return the commit at the head of a branch where it holds all files; None where it does not."""
        info = self._info(revision or self.revision)
        present = _stored(info)
        holds_all = all(present.get(name) in known for name, known in hashes.items())
        return (str(info.sha), None) if holds_all else None

    def _find_pull_request(self, hashes: Mapping[str, set[str]]) -> tuple[str, str] | None:
        """Return the open pull request of this account that brings all files; None where there is none."""
        mine = self._api.get_repo_discussions(
            self.repo_id, author=self.account, discussion_type="pull_request", discussion_status="open"
        )
        for request in mine:
            if commit := self._find_commit(hashes, request.git_reference):
                return commit[0], request.url
        return None

    def _info(self, revision: str) -> ModelInfo:
        """Ask the Hub for a revision of the repository, with its files."""
        return self._api.model_info(self.repo_id, revision=revision, files_metadata=True)

    def _ask(self, step: Callable[[], _Result]) -> _Result:
        """Do a step that calls the Hub, and again after a pause where the Hub does not answer."""
        return self._again(lambda: self._once(step))

    def _again(self, step: Callable[[], _Result]) -> _Result:
        """Do a step, and again after a pause as long as it raises that the Hub does not answer."""
        for pause in PAUSES:
            try:
                return step()
            except HubUnreachableError as error:
                self._wait(max(pause, _asked_pause(error)))
        return step()

    def _wait(self, seconds: float) -> None:
        """Wait, and report meanwhile, so that the push can be stopped."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            threading.Event().wait(min(left, _TICK))
            self._report()

    def _once(self, step: Callable[[], _Result]) -> _Result:
        """Do a step that calls the Hub, with its errors as qtoolkit's and no progress bar."""
        with translated(self._model), without_bars():
            return step()


def _asked_pause(error: HubUnreachableError) -> float:
    """Return the seconds after which the Hub wants to be asked again; 0 where it does not say."""
    cause = error.__context__
    seconds = cause.response.headers.get("Retry-After", "") if isinstance(cause, HfHubHTTPError) else ""
    return min(float(seconds), _LONGEST_PAUSE) if seconds.isdecimal() else 0.0


def _stored(info: ModelInfo) -> dict[str, str]:
    """Return the files of a commit with the hash that the Hub keeps: SHA-256 of a large file, git's of a small one."""
    return {file.rfilename: (file.lfs.sha256 if file.lfs else file.blob_id) or "" for file in info.siblings or ()}


def _hashes(content: Content, sha256: str | None) -> set[str]:
    """Return the hashes by which the Hub may keep a content: SHA-256 of a large file, git's of a small one."""
    hashes = {sha256} if sha256 else set()
    # Larger files are never kept in git itself.
    if isinstance(content, bytes) or content.stat().st_size < 20_000_000:
        data = content if isinstance(content, bytes) else content.read_bytes()
        hashes.add(hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest())
        hashes.add(hashlib.sha256(data).hexdigest())
    return hashes
