"""Record what was uploaded to the Hub, or would be."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from qtoolkit.records.base import Record, Row, row_if
from qtoolkit.records.verification import Verification
from qtoolkit.units import format_bytes, format_items

_CARD = "README.md"


@dataclass(frozen=True)
class PublishedFormat(Record):
    """Describe one format of a model that a branch of its own holds, beside another format on the first branch.

    Attributes:
        format: what the format calls the way that it packs codes; also the branch.
        files: name -> bytes of every file.
        unchanged: names of the files that the branch had already.
        card: the card on this branch.
        verification: the checks made before it was sent.
        commit_hash: the commit that holds it; None for a dry run.
    """

    format: str
    files: Mapping[str, int]
    unchanged: tuple[str, ...]
    card: str
    verification: Verification
    commit_hash: str | None = None

    def rows(self) -> tuple[Row, ...]:
        sent = {name: size for name, size in self.files.items() if name not in self.unchanged}
        new = f"{len(sent)} of {len(self.files)} files are new there, {format_bytes(sum(sent.values()))}"
        return (
            Row("branch", self.format, new),
            *row_if("commit", self.commit_hash),
            *self.verification.summary(),
        )


@dataclass(frozen=True)
class Publication(Record):
    """Describe a model published on the Hub.

    Attributes:
        repo_id: "org/name".
        url: its page.
        revision: the branch; "main" by default.
        private: whether only its owner sees it; None for a pull request to somebody else's repository.
        gated: whether the public repository gives its files only to users whom its owner admits, as its base does.
        dry_run: whether nothing was sent.
        files: name -> bytes of every file.
        unchanged: names of the files that the repository had already.
        card: the model card.
        verification: the checks made before it was sent.
        commit_hash: the commit that holds it; None for a dry run.
        pull_request: address of the pull request; None if the files were committed to the branch.
        other_formats: the same model in other formats, each on a branch of its own.
        beside: the checks of the other models of this branch, where each is one file, by the file's name.
    """

    schema_version: ClassVar[int] = 2
    added_fields: ClassVar[frozenset[str]] = frozenset({"other_formats", "beside"})

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
    other_formats: tuple[PublishedFormat, ...] = ()
    beside: Mapping[str, Verification] = field(default_factory=dict)

    def headline(self) -> str:
        sent = [name for name in self.files if name not in self.unchanged]
        card = f", the card {_CARD} among them" * (_CARD in sent)
        files = format_items(len(sent), "file")
        if self.dry_run:
            return f"Nothing was sent: {files}{card}{',' * bool(card)} would go to {self.url}."
        return f"Published at {self.pull_request or self.url}: {files} sent{card}."

    def rows(self) -> tuple[Row, ...]:
        sent = {name: size for name, size in self.files.items() if name not in self.unchanged}
        access = {True: "private", False: "public", None: "as the repository is"}[self.private]
        access += ", gated as its base" * self.gated
        return (
            Row("dry run" if self.dry_run else "published", self.url, f"{access}, branch {self.revision}"),
            *row_if("commit", self.commit_hash),
            *row_if("pull request", self.pull_request),
            Row(
                "to be sent" if self.dry_run else "sent",
                format_bytes(sum(sent.values())),
                format_items(len(sent), "file"),
            ),
            *(
                Row(name, format_bytes(size), "there already" * (name in self.unchanged))
                for name, size in self.files.items()
            ),
            *self.verification.summary(),
            *(row for verification in self.beside.values() for row in verification.summary()),
            *(row for other in self.other_formats for row in other.rows()),
            *((Row("card", self.card),) if self.dry_run else ()),
        )
