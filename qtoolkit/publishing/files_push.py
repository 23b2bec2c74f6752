"""Send files that were verified elsewhere to a repository of the Hub, in one commit with their card."""

from collections.abc import Mapping
from dataclasses import replace

from qtoolkit.hub.hub_errors import hub_address
from qtoolkit.publishing.push import CARD, Content, Repository
from qtoolkit.publishing.token import find_writer
from qtoolkit.records import Publication, Verification
from qtoolkit.requests import PublishRequest


def publish_files(
    request: PublishRequest,
    files: Mapping[str, Content],
    card: str,
    verification: Verification,
    *,
    message: str,
    gated: bool,
) -> Publication:
    """Send files that the repository does not have.

    Args:
        request: where they go, and how.
        files: name -> a path, or what is in the file.
        card: the card, which goes with them.
        verification: the checks that were made of them.
        message: of the commit.
        gated: whether a public repository is to admit people one by one.

    Raises:
        ConfigError, GatedModelError, SourceError: as `qtoolkit.publish`.
    """
    content: dict[str, Content] = {**files, CARD: card.encode()}
    private = None if request.create_pr else request.private
    planned = Publication(
        repo_id=request.repo_id,
        url=f"{hub_address()}/{request.repo_id}",
        revision=request.revision,
        private=private,
        gated=private is False and gated,
        dry_run=True,
        files={
            name: len(one) if isinstance(one, bytes) else one.stat().st_size for name, one in sorted(content.items())
        },
        unchanged=(),
        card=card,
        verification=verification,
    )
    if request.dry_run:
        return planned
    repository = Repository(
        request.repo_id, find_writer(request.repo_id, request.token), request.revision, request.report
    )
    repository.open(private=request.private, create_pr=request.create_pr)
    if planned.gated and not repository.private:
        repository.gate()
    repository.refuse_leftovers(content)
    return send_missing(repository, planned, content, {}, message=message, create_pr=request.create_pr)


def send_missing(
    repository: Repository,
    planned: Publication,
    files: Mapping[str, Content],
    hashes: Mapping[str, str],
    *,
    message: str,
    create_pr: bool,
) -> Publication:
    """Send the files that a repository does not hold; return what a dry run planned, as it was done.

    Args:
        repository: opened, and seen to have no other weights.
        planned: of the dry run.
        files: name -> a path, or what is in the file.
        hashes: the SHA-256 of files whose bytes need not be read for it, by name.
        message: of the commit.
        create_pr: whether a pull request is opened instead.

    Raises:
        SourceError: as `Repository.push`.
    """
    unchanged = repository.unchanged(files, hashes)
    missing = {name: one for name, one in files.items() if name not in unchanged}
    commit, pull_request = repository.parent, None
    if missing:
        commit, pull_request = repository.push(missing, message, create_pr=create_pr)
    return replace(
        planned,
        dry_run=False,
        private=repository.private,
        gated=planned.gated and not repository.private,
        unchanged=unchanged,
        commit_hash=commit,
        pull_request=pull_request,
    )
