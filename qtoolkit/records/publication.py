"""What was put on the Hub, or would be."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from qtoolkit.records.base import Record, Row
from qtoolkit.records.verification import Verification
from qtoolkit.units import format_bytes


@dataclass(frozen=True)
class Publication(Record):
    """A model on the Hub.

    Attributes:
        repo_id: "org/name".
        url: its page.
        revision: the branch; "main" by default.
        private: whether only its owner sees it; None for a pull request to a repository of somebody else.
        gated: whether the public repository hands files only to those whom its owner admits, as its base does.
        dry_run: whether nothing was sent.
        files: name -> bytes of every file.
        unchanged: names of those that were there already.
        card: the model card.
        verification: what was found before it was sent.
        commit_hash: the commit that holds it; None for a dry run.
        pull_request: address of the pull request; None where it was committed.
    """

    schema_version: ClassVar[int] = 2

    repo_id: str
    url: str
    revision: str
    private: bool | None
    gated: bool
    dry_run: bool
    files: Mapping[str, int]
    unchanged: tuple[str, ...]
    card: str
    verification: Verification
    commit_hash: str | None = None
    pull_request: str | None = None

    def rows(self) -> tuple[Row, ...]:
        sent = {name: size for name, size in self.files.items() if name not in self.unchanged}
        seen = {True: "private", False: "public", None: "as the repository is"}[self.private]
        seen += ", gated as its base" * self.gated
        total = Row("to be sent" if self.dry_run else "sent", format_bytes(sum(sent.values())), f"{len(sent)} files")
        return (
            Row("dry run" if self.dry_run else "published", self.url, f"{seen}, branch {self.revision}"),
            *((Row("commit", self.commit_hash),) if self.commit_hash else ()),
            *((Row("pull request", self.pull_request),) if self.pull_request else ()),
            total,
            *(
                Row(name, format_bytes(size), "there already" * (name in self.unchanged))
                for name, size in self.files.items()
            ),
            *self.verification.summary(),
            *((Row("card", self.card),) if self.dry_run else ()),
        )
