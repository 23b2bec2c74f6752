"""A verified model to the Hub: large files first, one after the other, then one commit that holds them all."""

import hashlib
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TypeVar

from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

from qtoolkit.errors import ConfigError, HubUnreachableError, SourceError
from qtoolkit.publishing.token import Writer
from qtoolkit.records import OnProgress, ProgressEvent
from qtoolkit.source.hub_errors import HubUpload, translated
from qtoolkit.source.hub_mirror import without_bars
from qtoolkit.source.names import INDEX_FILE

# Seconds before a step is tried again; huggingface_hub itself has tried each request several times by then.
PAUSES = (2.0, 8.0, 30.0)
_Result = TypeVar("_Result")
Content = Path | bytes


class Repository:
    """A model repository that is written to.

    Args:
        repo_id: "org/name".
        writer: who writes.
        revision: the branch.
        on_progress: told of each file that was sent.
    """

    def __init__(self, repo_id: str, writer: Writer, revision: str, on_progress: OnProgress) -> None:
        self.repo_id, self.revision = repo_id, revision
        self._model = HubUpload(repo_id, revision, writer.token)
        self._api = HfApi(token=writer.token)
        self._on_progress = on_progress
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
            self._again(lambda: self._api.create_repo(self.repo_id, private=private, exist_ok=True))
        if not create_pr and self.revision != "main":
            self._again(lambda: self._api.create_branch(self.repo_id, branch=self.revision, exist_ok=True))
        info = self._again(lambda: self._api.model_info(self.repo_id, revision=self.revision, files_metadata=True))
        self.parent, self.private = info.sha, None if create_pr else bool(info.private)
        for file in info.siblings or ():
            self.present[file.rfilename] = (file.lfs.sha256 if file.lfs else file.blob_id) or ""
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
        left = [name for name in self.present if name.endswith((".safetensors", ".bin", ".gguf")) or name == INDEX_FILE]
        odd = sorted(name for name in left if name not in files and "/" not in name)
        if odd:
            raise ConfigError(
                f"{self.repo_id} holds {odd[0]}, which this model has not: name another repository or revision=, or "
                "remove it there"
            )

    def push(self, files: Mapping[str, Content], message: str, *, create_pr: bool) -> tuple[str, str | None]:
        """Send files, each as it can, and then the one commit that makes them the repository's.

        What was sent before a connection broke for good is not sent again by the next call: the Hub keeps it.

        Returns:
            The commit, and the pull request's address.

        Raises:
            SourceError: the Hub does not answer, or refuses, or somebody committed meanwhile.
        """
        operations = [CommitOperationAdd(name, content) for name, content in files.items()]
        total, done = sum(operation.upload_info.size for operation in operations), 0
        for operation in operations:
            self._again(partial(self._send, operation, create_pr=create_pr))
            done += operation.upload_info.size
            self._on_progress(ProgressEvent("push", done, total, "bytes", operation.path_in_repo))
        made = self._again(
            lambda: self._api.create_commit(
                self.repo_id,
                operations,
                commit_message=message,
                parent_commit=self.parent,
                revision=self.revision,
                create_pr=create_pr,
            )
        )
        return made.oid, made.pr_url

    def _send(self, operation: CommitOperationAdd, *, create_pr: bool) -> None:
        self._api.preupload_lfs_files(self.repo_id, [operation], revision=self.revision, create_pr=create_pr)

    def _again(self, step: Callable[[], _Result]) -> _Result:
        """Do a step, and again after a pause where the Hub does not answer."""
        for pause in PAUSES:
            try:
                return self._once(step)
            except HubUnreachableError:
                time.sleep(pause)
        return self._once(step)

    def _once(self, step: Callable[[], _Result]) -> _Result:
        with translated(self._model), without_bars():
            try:
                return step()
            except (RepositoryNotFoundError, RevisionNotFoundError):
                raise
            except HfHubHTTPError as error:
                if error.response.status_code == 412:
                    raise SourceError(
                        f"somebody committed to {self.repo_id} meanwhile: look at it, then call again"
                    ) from error
                raise


def _hashes(content: Content, sha256: str | None) -> set[str]:
    """What the Hub may call a content: SHA-256 of a large file, git's hash of a small one."""
    found = {sha256} if sha256 else set()
    # Files of this size are never kept in git itself.
    if isinstance(content, bytes) or content.stat().st_size < 20_000_000:
        data = content if isinstance(content, bytes) else content.read_bytes()
        found.add(hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest())
        found.add(hashlib.sha256(data).hexdigest())
    return found
